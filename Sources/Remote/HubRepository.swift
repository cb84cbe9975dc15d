import Crypto
import Foundation
import Runtime
import StrictJSON
import Tensors

/// One commit of a repository of a Hugging Face hub, read like a directory.
///
/// The revision is resolved once; every URL after that names the commit, so that a push during a run mixes nothing. Where this machine's cache
/// holds a file, that is read.
package struct HubRepository: SourceDirectory {
    package let path: String
    private let files: [String: File]
    private let open = Lock<[String: any SourceFile]>([:])
    private let hub: Hub
    private let id: String
    private let commit: String
    private let folder: String
    private let snapshot: String?
    private let pool: BlockPool

    struct File: Sendable {
        var size: Int
        /// SHA-256 of what lies in large file storage.
        var sha256: String?
        /// Git's hash of the file, or of the pointer to it.
        var oid: String
    }

    /// Finds what an address means: a directory of the hub or of this machine's cache, and a name in it if it is a file.
    package static func find(
        _ address: HubAddress, _ environment: RemoteEnvironment, pool: @autoclosure () -> BlockPool = .shared
    ) throws -> (directory: any SourceDirectory, name: String?) {
        let cache = HubCache(environment, id: address.id)
        let revision = address.revision ?? "main"
        let name = HubAddress.scheme + address.id + "@" + revision
        if environment.isOffline || isCommit(revision), let commit = cache.commit(revision), let snapshot = cache.snapshot(commit) {
            let isWhole = cache.tree(commit)?.allSatisfy { (try? FileTree.entry(snapshot + "/" + $0.key)) == .file(size: $0.value) }
            if environment.isOffline || isWhole == true { return try local(snapshot, address, commit) }
        }
        guard !environment.isOffline else { throw RemoteFailure.offline(name) }
        let hub = Hub(environment)
        let commit = try hub.commit(address.id, revision, name)
        let pinned = HubAddress.scheme + address.id + "@" + commit
        let tree = try hub.tree(address.id, commit, pinned)
        let snapshot = cache.snapshot(commit)
        if let snapshot, tree.allSatisfy({ (try? FileTree.entry(snapshot + "/" + $0.key)) == .file(size: $0.value.size) }) {
            return try local(snapshot, address, commit)
        }
        let isFile = tree[address.path] != nil
        let parts = address.path.split(separator: "/")
        let folder = (isFile ? parts.dropLast() : parts[...]).map { $0 + "/" }.joined()
        var files: [String: File] = [:]
        for (path, file) in tree where path.hasPrefix(folder) && !path.dropFirst(folder.count).contains("/") {
            files[String(path.dropFirst(folder.count))] = file
        }
        guard !files.isEmpty else {
            throw RemoteFailure.missing(pinned, reason: "the repository has no \(address.path.isEmpty ? "files" : address.path)")
        }
        let directory = HubRepository(
            path: pinned + (folder.isEmpty ? "" : "/" + folder.dropLast()), files: files, hub: hub, id: address.id, commit: commit,
            folder: folder, snapshot: snapshot, pool: pool())
        return (directory, isFile ? parts.last.map(String.init) : nil)
    }

    private static func local(
        _ snapshot: String, _ address: HubAddress, _ commit: String
    ) throws -> (directory: any SourceDirectory, name: String?) {
        let pinned = HubAddress.scheme + address.id + "@" + commit
        let path = address.path.isEmpty ? snapshot : snapshot + "/" + address.path
        let isDirectory: Bool
        switch try FileTree.entry(path) {
        case .directory?: isDirectory = true
        case nil: throw RemoteFailure.missing(path, reason: "the cached commit has no such file")
        default: isDirectory = false
        }
        let directory = isDirectory ? path : FileTree.directory(of: path)
        let name = isDirectory ? nil : path.split(separator: "/").last.map(String.init)
        let source = LocalDirectory(
            directory, address: pinned + directory.dropFirst(snapshot.count), modelName: Self.modelName(of: address.id),
            notes: ["\(pinned) is read from the hub's cache on this machine: \(directory)"])
        return (source, name)
    }

    package var isRemote: Bool { true }

    package var modelName: String { Self.modelName(of: id) }

    private static func modelName(of id: String) -> String { id.split(separator: "/").last.map(String.init) ?? id }

    package func names() -> [String] { FileTree.inOrder(files.keys) }

    package func entry(_ name: String) -> FileTree.Entry? { files[name].map { .file(size: $0.size) } }

    /// A file that comes as a whole, and is compared with git's hash of it.
    private static let heldLimit = 32 << 20

    package func open(_ name: String) throws -> any SourceFile {
        let place = path(of: name)
        guard let file = files[name] else { throw RemoteFailure.missing(place, reason: "the repository has no such file") }
        if let found = open.withLock({ $0[name] }) { return found }
        let opened: any SourceFile
        if let snapshot, let cached = try? PositionedFile.openForReading(snapshot + "/" + folder + name), try cached.size() == file.size {
            opened = KnownFile(cached, version: file.sha256 ?? file.oid)
        } else {
            let location = HubLocation(hub: hub, id: id, commit: commit, file: folder + name, size: file.size, sha256: file.sha256, path: place)
            let remote = RemoteFile(
                place, byteCount: file.size, identity: file.sha256 ?? file.oid, published: file.sha256, server: hub.endpoint,
                location: location, pool: pool)
            opened = file.sha256 == nil && file.size <= Self.heldLimit ? try held(remote, file, name) : remote
        }
        // Two threads may have opened it: the first one's is everyone's.
        return open.withLock { open in
            if let other = open[name] { return other }
            open[name] = opened
            return opened
        }
    }

    private func held(_ remote: RemoteFile, _ file: File, _ name: String) throws -> any SourceFile {
        let bytes = try remote.read(file.size, at: 0)
        var hash = Insecure.SHA1()
        hash.update(data: Array("blob \(file.size)\0".utf8))
        hash.update(data: bytes)
        let found = hash.finalize().hexadecimal
        guard found == file.oid else {
            throw RemoteFailure.answer(remote.path, reason: "what came has git's hash \(found), the repository's listing says \(file.oid)")
        }
        return HeldFile(bytes, path: remote.path, identity: file.oid)
    }

    package func conclude() throws -> [String] {
        let remote = open.withLock { $0.values.compactMap { $0 as? RemoteFile } }.filter { $0.published != nil }
        guard !remote.isEmpty else { return [] }
        let proven = try pool.proven(remote)
        let rest = remote.count - proven
        return [
            "\(path): \(proven) of \(remote.count) large files were read whole and have the SHA-256 that the hub publishes"
                + (rest == 0 ? "" : "; of \(rest) the parts that were read have the right lengths")
        ]
    }
}
