import Crypto
import Foundation
import NIOHTTP1
import Runtime
import StrictJSON
import Tensors

/// One commit of a repository of a Hugging Face hub, read like a directory.
///
/// The revision is resolved once; every URL after that names the commit, so that a push during a run mixes nothing. Where this machine's cache
/// holds a file, that is read.
package struct HubRepository: SourceDirectory {
    package let path: String
    package let notes: [String]
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
        guard !files.isEmpty else { throw RemoteFailure.missing(pinned, reason: "the repository has no \(address.path.isEmpty ? "files" : address.path)") }
        let directory = HubRepository(
            path: pinned + (folder.isEmpty ? "" : "/" + folder.dropLast()), notes: [], files: files, hub: hub, id: address.id, commit: commit,
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
            directory, address: pinned + directory.dropFirst(snapshot.count),
            notes: ["\(pinned) is read from the hub's cache on this machine: \(directory)"])
        return (source, name)
    }

    package var isRemote: Bool { true }

    package var modelName: String { id.split(separator: "/").last.map(String.init) ?? id }

    package func names() -> [String] { files.keys.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) } }

    package func entry(_ name: String) -> FileTree.Entry? { files[name].map { .file(size: $0.size) } }

    package func leaves(_ name: String) -> Bool { false }

    /// A file that comes as a whole, and is compared with git's hash of it.
    private static let heldLimit = 32 << 20

    package func open(_ name: String) throws -> any SourceFile {
        let place = path(of: name)
        guard let file = files[name] else { throw RemoteFailure.missing(place, reason: "the repository has no such file") }
        if let found = open.withLock({ $0[name] }) { return found }
        let opened: any SourceFile
        if let snapshot, let cached = try? PositionedFile.openForReading(snapshot + "/" + folder + name), try cached.size() == file.size {
            opened = cached
        } else {
            let location = HubLocation(hub: hub, id: id, commit: commit, file: folder + name, size: file.size, sha256: file.sha256, path: place)
            let remote = RemoteFile(
                place, byteCount: file.size, identity: file.sha256 ?? file.oid, published: file.sha256, location: location, pool: pool)
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
        let found = hash.finalize().map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
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

/// The part of a hub's interface that reading needs.
struct Hub: Sendable {
    private let environment: RemoteEnvironment
    private let endpoint: String

    init(_ environment: RemoteEnvironment) {
        self.environment = environment
        endpoint = environment.hubEndpoint
    }

    private func api(_ id: String) -> String { endpoint + "/api/models/" + URLText.encoded(id, keepingSlashes: true) }

    func url(_ id: String, _ commit: String, file: String) -> String {
        "\(endpoint)/\(URLText.encoded(id, keepingSlashes: true))/resolve/\(commit)/\(URLText.encoded(file, keepingSlashes: true))"
    }

    /// Who asks; for the hub's own host only.
    func authorization(for url: String) -> [(name: String, value: String)] {
        guard URLText.origin(url) == URLText.origin(endpoint), let token = environment.hubToken else { return [] }
        return [("Authorization", "Bearer " + token)]
    }

    private func ask(_ url: String, _ path: String) throws -> Answer {
        let answer: Answer
        do {
            answer = try Transport.shared.ask(Exchange(url: url, headers: authorization(for: url)))
        } catch RemoteFailure.unreachable(_, let reason) {
            throw RemoteFailure.unreachable(path, reason: "\(endpoint): \(reason)")
        }
        guard answer.status == 200 else { throw refusal(answer, path) }
        return answer
    }

    /// What the hub's refusal means (huggingface_hub: hf_raise_for_status).
    func refusal(_ answer: Answer, _ path: String) -> RemoteFailure {
        let said = answer.header("x-error-message").map { " (\"\($0.prefix(200))\")" } ?? ""
        let token = environment.hubToken == nil ? "set HF_TOKEN to a token that may read it" : "the token that is set may not read it"
        switch (answer.header("x-error-code"), answer.status) {
        case ("GatedRepo", _): return .missing(path, reason: "the repository is gated: accept its terms on its page, and \(token)\(said)")
        case ("RevisionNotFound", _): return .missing(path, reason: "the repository has no such revision\(said)")
        case ("EntryNotFound", _): return .missing(path, reason: "the repository has no such file\(said)")
        case ("RepoNotFound", _), (_, 401), (_, 403), (_, 404):
            return .missing(path, reason: "\(endpoint) has no such repository, or it is private: \(token)\(said)")
        default: return .answer(path, reason: "\(endpoint) answered \(answer.status)\(said)\(answer.requestNumber)")
        }
    }

    func commit(_ id: String, _ revision: String, _ path: String) throws -> String {
        let answer = try ask(api(id) + "/revision/" + URLText.encoded(revision), path)
        guard let value = try? JSONValue(parsing: answer.body), let commit = value["sha"]?.string, isCommit(commit) else {
            throw RemoteFailure.answer(path, reason: "\(endpoint) does not answer as a hub does; is HF_ENDPOINT right?")
        }
        return commit
    }

    /// Pages of a listing, far more than any repository has.
    private static let pageLimit = 1000

    func tree(_ id: String, _ commit: String, _ path: String) throws -> [String: HubRepository.File] {
        var files: [String: HubRepository.File] = [:]
        var next: String? = api(id) + "/tree/" + commit + "?recursive=true&expand=false"
        var pages = 0
        while let url = next {
            pages += 1
            guard pages <= Self.pageLimit else { throw RemoteFailure.answer(path, reason: "the listing has no end") }
            let answer = try ask(url, path)
            guard let entries = (try? JSONValue(parsing: answer.body))?.array else {
                throw RemoteFailure.answer(path, reason: "the listing of \(endpoint) is no JSON array")
            }
            for entry in entries where entry["type"]?.string == "file" {
                guard let name = entry["path"]?.string, let oid = entry["oid"]?.string, let size = entry["lfs"]?["size"]?.int ?? entry["size"]?.int,
                    size >= 0, !name.split(separator: "/", omittingEmptySubsequences: false).contains(where: { $0.isEmpty || $0 == "." || $0 == ".." })
                else { throw RemoteFailure.answer(path, reason: "the listing of \(endpoint) has an entry without name, size or hash") }
                let sha256 = entry["lfs"]?["oid"]?.string.map { $0.hasPrefix("sha256:") ? String($0.dropFirst(7)) : $0 }
                files[name] = HubRepository.File(size: size, sha256: sha256, oid: oid)
            }
            next = try Self.nextPage(answer).map { link in
                guard let joined = URLText.joined(url, link) else { throw RemoteFailure.answer(path, reason: "the listing goes on at \"\(link)\"") }
                return rewritten(joined)
            }
        }
        return files
    }

    /// A mirror may pass on links to the hub it mirrors.
    private func rewritten(_ url: String) -> String {
        guard let origin = URLText.origin(url), origin == "https://huggingface.co", origin != URLText.origin(endpoint) else { return url }
        return endpoint + url.dropFirst(origin.count)
    }

    /// `Link: <...>; rel="next"`.
    private static func nextPage(_ answer: Answer) -> String? {
        for link in answer.headers["link"].flatMap({ $0.split(separator: ",") }) where link.contains("rel=\"next\"") {
            if let start = link.firstIndex(of: "<"), let end = link.firstIndex(of: ">"), start < end { return String(link[link.index(after: start)..<end]) }
        }
        return nil
    }
}

/// Asks a hub where the bytes of one file are, once for as long as the answer holds.
final class HubLocation: RemoteLocation {
    private struct Found {
        var url: String
        var headers: [(name: String, value: String)]
        var expiry: Date?
    }

    private let hub: Hub
    private let id: String
    private let commit: String
    private let file: String
    private let size: Int
    private let sha256: String?
    private let path: String
    private let found = Lock<(found: Found?, time: Date)>((nil, .distantPast))

    init(hub: Hub, id: String, commit: String, file: String, size: Int, sha256: String?, path: String) {
        self.hub = hub
        self.id = id
        self.commit = commit
        self.file = file
        self.size = size
        self.sha256 = sha256
        self.path = path
    }

    /// One thread asks, the others wait for its answer. A URL that is refused may have been renewed by another thread meanwhile.
    func request(renew: Bool) throws -> (url: String, headers: [(name: String, value: String)]) {
        try found.withLock { state in
            let isSpent = state.found?.expiry.map { $0.timeIntervalSinceNow < 60 && state.time.timeIntervalSinceNow < -1 } ?? false
            let isFresh = state.time.timeIntervalSinceNow > -2
            if let found = state.found, !isSpent, !renew || isFresh { return (found.url, found.headers) }
            let found = try resolve()
            state = (found, Date())
            return (found.url, found.headers)
        }
    }

    private static let redirectLimit = 8

    private func resolve() throws -> Found {
        var url = hub.url(id, commit, file: file)
        for _ in 0..<Self.redirectLimit {
            let answer: Answer
            do {
                answer = try Transport.shared.ask(Exchange(url: url, method: "HEAD", headers: hub.authorization(for: url)))
            } catch RemoteFailure.unreachable(_, let reason) {
                throw RemoteFailure.unreachable(path, reason: reason)
            }
            guard answer.status == 200 || (300..<400).contains(answer.status) else { throw hub.refusal(answer, path) }
            if let other = answer.header("x-repo-commit"), other != commit {
                throw RemoteFailure.changed(path, reason: "the hub answers with commit \(other)")
            }
            if let length = answer.header("x-linked-size").flatMap(Int.init), length != size {
                throw RemoteFailure.changed(path, reason: "it has \(length) bytes, the listing says \(size)")
            }
            let tag = answer.header("x-linked-etag").map { $0.filter { $0 != "\"" }.replacing("W/", with: "") }
            if let tag, let sha256, tag.utf8.count == 64, tag != sha256 { throw RemoteFailure.changed(path, reason: "its hash is \(tag), the listing says \(sha256)") }
            guard let location = answer.header("location"), answer.status != 200 else { return Found(url: url, headers: hub.authorization(for: url)) }
            guard let next = URLText.joined(url, location) else { throw RemoteFailure.answer(path, reason: "the hub redirects to \"\(location.prefix(100))\"") }
            // Away from the hub: this is the signed URL, and no one's business but the store's.
            if URLText.origin(next) != URLText.origin(url) { return Found(url: next, headers: [], expiry: URLText.expiry(of: next)) }
            url = next
        }
        throw RemoteFailure.answer(path, reason: "the hub redirects in circles")
    }
}
