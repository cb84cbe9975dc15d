import Architectures
import Tensors

/// Which tokens of its sequence each token sees: a row of bits a token, for sequences that are longer than an indexer keeps.
///
/// Invariant: concurrent writers write different rows; nobody reads what another is writing.
final class TokenChoice: @unchecked Sendable {
    /// Sequences of no more tokens have no rows worth reading: each of their tokens sees all before it.
    let keptTokens: Int
    private let words: Int
    private let bits: AlignedBuffer

    /// Nil if no sequence is longer than the indexer keeps: there it changes nothing.
    init?(_ indexer: ModelConfiguration.Indexer, sequences: [Range<Int>]) throws {
        guard let longest = sequences.map(\.count).max(), longest > indexer.keptTokens else { return nil }
        keptTokens = indexer.keptTokens
        words = ceilingDivide(longest, 64)
        bits = try AlignedBuffer(byteCount: (sequences.map(\.upperBound).max() ?? 0) * words * 8)
    }

    private func row(_ token: Int) -> UnsafeMutableBufferPointer<UInt64> {
        let all = bits.bytes.bindMemory(to: UInt64.self)
        return UnsafeMutableBufferPointer(rebasing: all[token * words..<(token + 1) * words])
    }

    /// What a token sees, by position.
    func set(_ token: Int, seen: some Sequence<Int>) {
        let row = row(token)
        row.update(repeating: 0)
        for position in seen { row[position / 64] |= 1 << (position % 64) }
    }

    /// Takes the positions that a token does not see out of its `count` scores.
    func hide(_ scores: UnsafeMutablePointer<Float>, row token: Int, count: Int) {
        let row = row(token)
        for position in 0..<count where row[position / 64] >> (position % 64) & 1 == 0 { scores[position] = -.infinity }
    }
}
