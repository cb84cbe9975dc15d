import Crypto
import Foundation
import Runtime

/// The bytes of files elsewhere that are in memory: blocks that were asked for, and those that a stream will ask for next.
///
/// A few threads fetch; who reads waits for a block, and two who want the same wait for one fetch. Memory is `capacity` blocks, whatever the
/// files' sizes.
package final class BlockPool: @unchecked Sendable {
    // Invariant: all that varies is touched while `condition` is locked.

    package static let shared = BlockPool()

    /// Bytes of a block of a stream, and of a piece where little is wanted.
    static let block = 4 << 20, piece = 256 << 10
    /// Who reads so much at once is a stream.
    static let smallRead = 1 << 20

    struct Block: Sendable {
        var offset: Int
        var bytes: [UInt8]
    }

    private struct Key: Hashable {
        var file: ObjectIdentifier
        var offset: Int
        var isPiece: Bool
    }

    private enum State {
        case waiting, loading
        case ready(Block)
        case failed(any Error)
    }

    private struct Slot {
        // Keeps the identifier in the key from being another file's.
        var file: RemoteFile
        var state: State
        var use: Int
        var isHashed = false
    }

    private let condition = NSCondition()
    private let capacity: Int
    private let ahead: Int
    private let threadLimit: Int
    private let cache: BlockCache?
    private var slots: [Key: Slot] = [:]
    private var queue: [Key] = []
    private var clock = 0
    private var threads = 0
    private var idle = 0
    private var hashing = 0

    /// - Parameters:
    ///   - capacity: blocks that are kept in memory.
    ///   - ahead: blocks that are asked for before a stream comes to them.
    package init(capacity: Int? = nil, ahead: Int = 6, threads: Int? = nil, cache: BlockCache? = BlockCache(.process)) {
        let processors = ProcessFigures.processorCount
        self.capacity = capacity ?? max(16, processors * 3)
        self.ahead = ahead
        threadLimit = threads ?? max(8, processors)
        self.cache = cache
    }

    // MARK: Reading

    /// The block or piece that holds a byte, fetched if it is not here.
    func block(of file: RemoteFile, holding offset: Int, isStream: Bool) throws -> Block {
        let whole = Key(file: ObjectIdentifier(file), offset: offset / Self.block * Self.block, isPiece: false)
        let small = Key(file: whole.file, offset: offset / Self.piece * Self.piece, isPiece: true)
        condition.lock()
        defer { condition.unlock() }
        var key = isStream || slots[whole] != nil ? whole : small
        // What is here as a piece need not come again, unless it begins a stream.
        if isStream, slots[whole] == nil, case .ready(let block)? = slots[small]?.state, offset - block.offset < block.bytes.count { key = small }
        // What the disk has as a block need not come as a piece.
        if key.isPiece, slots[small] == nil, cache?.holds(name(of: whole, file)) == true { key = whole }
        clock += 1
        if slots[key] == nil { enqueue(key, file, first: true) }
        if isStream, !key.isPiece {
            for step in 1...max(1, ahead) {
                let next = Key(file: key.file, offset: key.offset + step * Self.block, isPiece: false)
                if next.offset < file.byteCount, step <= ahead, slots[next] == nil { enqueue(next, file, first: false) }
            }
        }
        while true {
            switch slots[key]?.state {
            case .ready(let block):
                slots[key]?.use = clock
                return block
            case .failed(let error):
                slots[key] = nil
                throw error
            case nil: enqueue(key, file, first: true)
            case .waiting?, .loading?: break
            }
            condition.wait()
        }
    }

    private func enqueue(_ key: Key, _ file: RemoteFile, first: Bool) {
        slots[key] = Slot(file: file, state: .waiting, use: clock)
        if first { queue.insert(key, at: 0) } else { queue.append(key) }
        if idle == 0, threads < threadLimit {
            threads += 1
            let thread = Thread { self.serve() }
            thread.stackSize = 1 << 20
            thread.start()
        }
        condition.broadcast()
    }

    // MARK: Fetching

    private func serve() {
        condition.lock()
        while true {
            while queue.isEmpty {
                idle += 1
                condition.wait()
                idle -= 1
            }
            let key = queue.removeFirst()
            guard let file = slots[key]?.file else { continue }
            slots[key]?.state = .loading
            condition.unlock()
            let result = Result { try load(key, file) }
            condition.lock()
            switch result {
            case .success(let block):
                // Whoever waits for it has yet to see it.
                slots[key]?.use = clock
                slots[key]?.state = .ready(block)
                prove(file)
            case .failure(let error):
                slots[key]?.state = .failed(error)
            }
            evict()
            condition.broadcast()
        }
    }

    private func range(of key: Key, _ file: RemoteFile) -> Range<Int> {
        key.offset..<min(file.byteCount, key.offset + (key.isPiece ? Self.piece : Self.block))
    }

    private func name(of key: Key, _ file: RemoteFile) -> String {
        let range = range(of: key, file)
        return "\(file.path)\n\(file.version())\n\(range.lowerBound)\n\(range.count)"
    }

    private func load(_ key: Key, _ file: RemoteFile) throws -> Block {
        let range = range(of: key, file), name = name(of: key, file)
        if let bytes = cache?.bytes(name), bytes.count == range.count { return Block(offset: key.offset, bytes: bytes) }
        let bytes = try file.fetch(range)
        cache?.keep(bytes, name)
        return Block(offset: key.offset, bytes: bytes)
    }

    /// Leaves what was used last; what waits for its turn in a hash stays as long as anything else can go.
    private func evict() {
        var held = 0
        var candidates: [(key: Key, size: Int, waits: Bool, use: Int)] = []
        for (key, slot) in slots {
            let size: Int
            switch slot.state {
            case .ready(let block): size = block.bytes.count
            case .failed: size = 0
            case .waiting, .loading: continue
            }
            let waits =
                !key.isPiece && slot.file.published != nil && !slot.isHashed
                && slot.file.proof.withLock { !$0.isBroken && $0.blocks * Self.block <= key.offset }
            held += size
            candidates.append((key, size, waits, slot.use))
        }
        guard held > capacity * Self.block else { return }
        candidates.sort { ($0.waits ? 1 : 0, $0.use) < ($1.waits ? 1 : 0, $1.use) }
        for candidate in candidates where held > capacity * Self.block {
            if candidate.waits { slots[candidate.key]?.file.proof.withLock { $0.isBroken = true } }
            slots[candidate.key] = nil
            held -= candidate.size
        }
    }

    // MARK: Proof

    /// Takes into the hash of a file the blocks whose turn it is. Called while locked; unlocks while it hashes.
    private func prove(_ file: RemoteFile) {
        guard file.published != nil else { return }
        while true {
            let next: Int? = file.proof.withLock { proof in
                guard !proof.isBusy, !proof.isBroken, proof.found == nil else { return nil }
                return proof.blocks * Self.block
            }
            guard let next, next < file.byteCount else { return }
            let key = Key(file: ObjectIdentifier(file), offset: next, isPiece: false)
            guard case .ready(let block)? = slots[key]?.state else { return }
            var hash = file.proof.withLock { proof in
                proof.isBusy = true
                return proof.hash
            }
            hashing += 1
            condition.unlock()
            block.bytes.withUnsafeBytes { hash.update(bufferPointer: $0) }
            let isLast = next + block.bytes.count >= file.byteCount
            let digest = isLast ? hash.finalize().map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined() : nil
            condition.lock()
            hashing -= 1
            slots[key]?.isHashed = true
            file.proof.withLock { proof in
                proof.hash = hash
                proof.blocks += 1
                proof.isBusy = false
                proof.found = digest
            }
            condition.broadcast()
        }
    }

    /// Waits until nothing of some files is being fetched or hashed, and says which of them were seen whole.
    /// - Throws: ``RemoteFailure/digest(_:published:found:)`` if one is not what was published.
    func proven(_ files: [RemoteFile]) throws -> Int {
        condition.lock()
        while hashing > 0 { condition.wait() }
        condition.unlock()
        var count = 0
        for file in files {
            guard let published = file.published, let found = file.proof.withLock({ $0.found }) else { continue }
            guard found == published else { throw RemoteFailure.digest(file.path, published: published, found: found) }
            count += 1
        }
        return count
    }
}
