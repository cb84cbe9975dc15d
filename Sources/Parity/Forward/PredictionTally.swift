import ReferenceModels
import Tensors

/// Predictions of finished passes held against a compact reference, batch by batch.
package struct PredictionTally {
    private let store: CompactReference
    private var differences: [PositionDifference] = []

    package init(_ store: CompactReference) { self.store = store }

    /// Adds the predictions of a finished pass.
    /// - Parameters:
    ///   - start: the pass's row of the first token that counts; all after it do.
    ///   - position: that token's position in the reference.
    package mutating func add(_ pass: ForwardPass, from start: Int, position: Int) throws {
        let count = pass.tokens.count - start
        let targets = ForwardTrial.targets(store.tokens, store.tokens.ranges, ahead: 1)
        for rows in TileSequence(rows: count, step: pass.logitsChunk) {
            let logits = try pass.logits(start + rows.lowerBound..<start + rows.upperBound)
            differences += try compareRows(
                CompactPredictions(store: store, first: position + rows.lowerBound), logits,
                targets: Array(targets[position + rows.lowerBound..<position + rows.upperBound]), workers: pass.weights.workerCount)
        }
    }

    package var comparison: PredictionComparison { PredictionComparison(differences, vocabulary: store.vocabulary) }
}
