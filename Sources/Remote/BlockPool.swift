import Crypto
import Foundation
import Runtime

/// The bytes of files elsewhere that are in memory: blocks that were asked for, and those that a stream will ask for next.
///
/// A few threads fetch; who reads waits for a block, and two who want the same wait for one fetch. Memory is `capacity` blocks, whatever the
/// files' sizes. Every part that is handed out is remembered by its digest: what comes again must be the same, and what is hashed as a whole must
/// be what was used.
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

        var range: Range<Int> { offset..<offset + bytes.count }
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
        /// Readers that have yet to see what came of it.
        var readers = 0
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
        condition.lock()
        defer { condition.unlock() }
        let key = key(for: file, offset, isStream)
        clock += 1
        if slots[key] == nil { enqueue(key, file, first: true) }
        if isStream, !key.isPiece {
            for step in 0..<ahead {
                let next = Key(file: key.file, offset: key.offset + (step + 1) * Self.block, isPiece: false)
                if next.offset < file.byteCount, slots[next] == nil { enqueue(next, file, first: false) }
            }
        }
        slots[key]?.readers += 1
        defer { release(key) }
        while true {
            if let damage = file.proof.withLock({ $0.damage }) { throw damage }
            switch slots[key]?.state {
            case .ready(let block):
                slots[key]?.use = clock
                return block
            case .failed(let error): throw error
            case .waiting?, .loading?: condition.wait()
            case nil: throw RemoteFailure.unreachable(file.path, reason: "a block was given away while it was waited for")
            }
        }
    }

    private func key(for file: RemoteFile, _ offset: Int, _ isStream: Bool) -> Key {
        let whole = Key(file: ObjectIdentifier(file), offset: offset / Self.block * Self.block, isPiece: false)
        let small = Key(file: whole.file, offset: offset / Self.piece * Self.piece, isPiece: true)
        if slots[whole] != nil || file.byteCount <= Self.piece { return whole }
        // What is here as a piece need not come again.
        if case .ready? = slots[small]?.state { return small }
        if isStream { return whole }
        // A piece of a block that was hashed could not be compared with it, and what the disk has as a block need not come as a piece.
        if file.proof.withLock({ $0.blocks * Self.block > offset }) || cache?.holds(name(of: whole, file)) == true { return whole }
        return small
    }

    /// One reader less; the last one takes a failure away, so that the next asks again.
    private func release(_ key: Key) {
        slots[key]?.readers -= 1
        if slots[key]?.readers == 0, case .failed? = slots[key]?.state { slots[key] = nil }
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
            // Whoever waits for it has yet to see it.
            slots[key]?.use = clock
            switch result {
            case .success(let block):
                slots[key]?.state = .ready(block)
                prove(file)
            case .failure where slots[key]?.readers == 0:
                // Nobody asked: who will, asks anew.
                slots[key] = nil
            case .failure(let error): slots[key]?.state = .failed(error)
            }
            evict()
            condition.broadcast()
        }
    }

    private func range(of key: Key, _ file: RemoteFile) -> Range<Int> {
        key.offset..<key.offset + min(key.isPiece ? Self.piece : Self.block, file.byteCount - key.offset)
    }

    private func name(of key: Key, _ file: RemoteFile) -> String { name(of: range(of: key, file), file) }

    private func name(of range: Range<Int>, _ file: RemoteFile) -> String {
        "\(file.server)\n\(file.path)\n\(file.version())\n\(range.lowerBound)\n\(range.count)"
    }

    private func load(_ key: Key, _ file: RemoteFile) throws -> Block {
        let range = range(of: key, file), name = name(of: key, file)
        let bytes: [UInt8], digest: BlockDigest
        if let kept = cache?.content(name), kept.bytes.count == range.count {
            (bytes, digest) = kept
        } else {
            bytes = try file.fetch(range)
            digest = BlockDigest(bytes)
            cache?.keep(bytes, digest, name)
        }
        guard file.proof.withLock({ $0.saw(.init(range), digest) }) else {
            throw RemoteFailure.changed(file.path, reason: "bytes \(range.lowerBound) to \(range.upperBound - 1) came twice, and differ")
        }
        return Block(offset: key.offset, bytes: bytes)
    }

    /// Leaves what was used last; what waits for its turn in a hash stays as long as anything else can go, and what a reader waits for in any case.
    private func evict() {
        var held = 0
        var candidates: [(key: Key, size: Int, waits: Bool, use: Int)] = []
        for (key, slot) in slots {
            guard case .ready(let block) = slot.state else { continue }
            held += block.bytes.count
            guard slot.readers == 0 else { continue }
            let waits =
                !key.isPiece && slot.file.published != nil && !slot.isHashed
                && slot.file.proof.withLock { !$0.isBroken && $0.blocks * Self.block <= key.offset }
            candidates.append((key, block.bytes.count, waits, slot.use))
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
        guard let published = file.published else { return }
        while true {
            let next: Int? = file.proof.withLock { proof in
                guard !proof.isBusy, !proof.isBroken, proof.damage == nil else { return nil }
                return proof.blocks * Self.block
            }
            guard let next, next < file.byteCount else { return }
            let key = Key(file: ObjectIdentifier(file), offset: next, isPiece: false)
            guard case .ready(let block)? = slots[key]?.state else { return }
            var (hash, pieces) = file.proof.withLock { proof in
                proof.isBusy = true
                return (proof.hash, proof.parts(in: block.range, of: Self.piece))
            }
            hashing += 1
            condition.unlock()
            block.bytes.withUnsafeBytes { hash.update(bufferPointer: $0) }
            let differs = pieces.contains { part, digest in
                digest != BlockDigest(block.bytes[(part.offset - next)..<(part.offset - next + part.count)])
            }
            let isLast = block.range.upperBound >= file.byteCount
            let found = isLast ? hash.finalize().hexadecimal : nil
            var damage: RemoteFailure?
            if differs { damage = .changed(file.path, reason: "a part of it came twice, and differs") }
            if let found, found != published { damage = .digest(file.path, published: published, found: found) }
            if damage != nil { forget(file) }
            condition.lock()
            hashing -= 1
            slots[key]?.isHashed = true
            file.proof.withLock { $0.advance(hash, isWhole: isLast && damage == nil, damage: damage) }
            condition.broadcast()
        }
    }

    /// Takes what is wrong off the disk, or it would be wrong for ever.
    private func forget(_ file: RemoteFile) {
        for start in stride(from: 0, to: file.byteCount, by: Self.block) {
            let block = start..<start + min(Self.block, file.byteCount - start)
            cache?.forget(name(of: block, file))
            for offset in stride(from: start, to: block.upperBound, by: Self.piece) {
                cache?.forget(name(of: offset..<offset + min(Self.piece, file.byteCount - offset), file))
            }
        }
    }

    /// Waits until nothing is being hashed, and says how many of some files were seen whole.
    /// - Throws: ``RemoteFailure/digest(_:published:found:)`` if one is not what was published.
    func proven(_ files: [RemoteFile]) throws -> Int {
        condition.lock()
        while hashing > 0 { condition.wait() }
        condition.unlock()
        return try files.count { file in
            let (damage, isWhole) = file.proof.withLock { ($0.damage, $0.isWhole) }
            if let damage { throw damage }
            return isWhole
        }
    }
}
