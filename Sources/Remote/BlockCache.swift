import Crypto
import Foundation
import Runtime
import Tensors

/// What was read over the network, kept on disk: a conversion reads its source twice, to write and to audit, and what was planned once is
/// planned again without asking.
///
/// Every entry carries the SHA-256 of its bytes; a damaged one is none. Processes share the directory without locks: entries appear by rename, and
/// whoever takes one away takes nothing that another needs. It may be deleted at any time.
package final class BlockCache: Sendable {
    private let directory: String
    private let limit: Int
    /// Bytes in the directory as far as this process knows; nil before it looked.
    private let held = Lock<Int?>(nil)

    /// All that is kept, unless `RECAST_CACHE_LIMIT` says otherwise: some shards, and never more than half of what is free.
    private static let usualLimit = 16 << 30

    /// - Returns: nil where the environment wants none.
    package convenience init?(_ environment: RemoteEnvironment) {
        guard let directory = environment.blockCache else { return nil }
        let given = environment["RECAST_CACHE_LIMIT"].flatMap { ByteSize(parsing: $0)?.bytes }
        self.init(directory, limit: given ?? min(Self.usualLimit, (FileTree.freeSpace(directory) ?? 0) / 2))
    }

    package init(_ directory: String, limit: Int) {
        self.directory = directory + "/blocks"
        self.limit = limit
    }

    private func path(_ name: String) -> String {
        let digest = SHA256.hash(data: Array(name.utf8)).hexadecimal
        return directory + "/" + digest.prefix(2) + "/" + digest
    }

    func holds(_ name: String) -> Bool { (try? FileTree.entry(path(name))) != nil }

    package func content(_ name: String) -> (bytes: [UInt8], digest: BlockDigest)? {
        let path = path(name)
        guard let file = try? PositionedFile.openForReading(path), let size = try? file.size(), size > 32, size <= 1 << 26,
            let content = try? file.read(size, at: 0), content.count == size
        else { return nil }
        let bytes = Array(content[32...])
        let digest = BlockDigest(bytes)
        guard digest == BlockDigest(stored: content[..<32]) else { return nil }
        // The time of the last use.
        file.touch()
        return (bytes, digest)
    }

    package func forget(_ name: String) { try? FileTree.remove(path(name)) }

    /// Keeps some bytes; where that cannot be done it is not.
    package func keep(_ bytes: [UInt8], _ digest: BlockDigest, _ name: String) {
        let size = bytes.count + 32
        guard size <= limit / 4 else { return }
        let path = path(name)
        do {
            try FileTree.createDirectories(FileTree.directory(of: path))
            let temporary = path + ".\(ProcessInfo.processInfo.processIdentifier).\(UInt32.random(in: 0...UInt32.max))"
            // Not flushed: what a power cut leaves of it fails its checksum.
            try PositionedFile.openForWriting(temporary, truncate: true).write(digest.bytes + bytes, at: 0)
            try FileTree.rename(temporary, to: path)
        } catch {
            return
        }
        let isFull = held.withLock { held in
            held = (held ?? Self.size(directory)) + size
            return held ?? 0 > limit
        }
        if isFull { shrink() }
    }

    private static func entries(_ directory: String) -> [(path: String, size: Int, time: Int)] {
        ((try? FileTree.list(directory)) ?? []).flatMap { folder in
            ((try? FileTree.list(directory + "/" + folder)) ?? []).compactMap { name in
                let path = directory + "/" + folder + "/" + name
                guard case .file(let size)? = try? FileTree.entry(path), let time = FileTree.modificationTime(path) else { return nil }
                return (path, size, time)
            }
        }
    }

    private static func size(_ directory: String) -> Int { entries(directory).reduce(0) { $0 + $1.size } }

    /// Takes away what was not used for longest, down to three quarters.
    private func shrink() {
        held.withLock { held in
            let entries = Self.entries(directory).sorted { $0.time < $1.time }
            var size = entries.reduce(0) { $0 + $1.size }
            for entry in entries where size > limit / 4 * 3 {
                try? FileTree.remove(entry.path)
                size -= entry.size
            }
            held = size
        }
    }
}
