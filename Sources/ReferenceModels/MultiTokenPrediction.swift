import Architectures

/// The finished state of the multi-token-prediction module: row i of a sequence predicts its token i + 2.
package struct MultiTokenPrediction: Sendable {
    /// The rows of each sequence.
    package let sequences: [Range<Int>]
    let hidden: Activations
    let weights: ModelWeights
    let configuration: ModelConfiguration
    let head: String
    let norm: String

    package var count: Int { hidden.rows }

    /// The rows of each sequence: one less than it has tokens.
    package static func rows(of tokens: TokenBatch) -> [Range<Int>] {
        var start = 0
        return tokens.ranges.map { range in
            defer { start += max(0, range.count - 1) }
            return start..<start + max(0, range.count - 1)
        }
    }

    package func logits(_ rows: Range<Int>) throws -> Activations {
        try weights.linear(
            head, weights.normalise(hidden, rows: rows, by: norm, epsilon: configuration.epsilon), outputs: configuration.vocabulary)
    }
}
