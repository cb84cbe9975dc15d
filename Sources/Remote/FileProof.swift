import Crypto

/// SHA-256 of some bytes.
package struct BlockDigest: Sendable, Hashable {
    private var words: SIMD4<UInt64>

    package init(_ bytes: some Sequence<UInt8> & Collection) {
        var hash = SHA256()
        if bytes.withContiguousStorageIfAvailable({ hash.update(bufferPointer: UnsafeRawBufferPointer($0)) }) == nil {
            hash.update(data: Array(bytes))
        }
        self.init(stored: Array(hash.finalize())[...])
    }

    /// - Parameter bytes: 32 of them.
    init(stored bytes: ArraySlice<UInt8>) {
        words = SIMD4()
        for (index, byte) in bytes.prefix(32).enumerated() { words[index / 8] |= UInt64(byte) << (index % 8 * 8) }
    }

    var bytes: [UInt8] { (0..<32).map { UInt8(truncatingIfNeeded: words[$0 / 8] >> ($0 % 8 * 8)) } }
}

/// What was seen of a file: the hash of its beginning, and of every part that was handed out, so that what the whole is proven of is what was used.
struct FileProof {
    private(set) var hash = SHA256()
    /// Blocks that went into the hash, from the first on.
    private(set) var blocks = 0
    /// A thread is hashing the next one.
    var isBusy = false
    /// A block was gone before its turn came.
    var isBroken = false
    /// All of it went into the hash, and that is the published one.
    private(set) var isWhole = false
    /// What is wrong with it; nothing of it is handed out any more.
    private(set) var damage: RemoteFailure?
    private var parts: [Part: BlockDigest] = [:]

    struct Part: Hashable {
        var offset: Int
        var count: Int

        init(_ range: Range<Int>) { (offset, count) = (range.lowerBound, range.count) }
    }

    /// Takes note of a part; false if it was seen before and was another.
    mutating func saw(_ part: Part, _ digest: BlockDigest) -> Bool {
        if let known = parts[part] { return known == digest }
        parts[part] = digest
        return true
    }

    /// The parts of `step` bytes that lie in a block, and are not it.
    func parts(in range: Range<Int>, of step: Int) -> [(part: Part, digest: BlockDigest)] {
        stride(from: range.lowerBound, to: range.upperBound, by: step).compactMap { offset in
            let part = Part(offset..<offset + min(step, range.upperBound - offset))
            guard part.count != range.count, let digest = parts[part] else { return nil }
            return (part, digest)
        }
    }

    mutating func advance(_ hash: SHA256, isWhole: Bool, damage: RemoteFailure?) {
        self.hash = hash
        blocks += 1
        isBusy = false
        self.isWhole = isWhole
        self.damage = damage
    }
}
