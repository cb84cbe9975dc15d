import Formats
import Tensors

/// GPTQ: rounding with error feedback through the inputs' second moments (Frantar et al., arXiv 2210.17323), with the layout's own scales and with
/// others, of which each row keeps those that give the smaller error of its outputs.
///
/// Narrow ranges suit the weights, wide ones the targets that the feedback moves; which is better differs from row to row.
package enum FeedbackRounding: Quantizer {
    package static let name = "gptq"
    package static let needs = StatisticsNeed.hessian

    package static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) throws -> QuantizedRows {
        guard let factor = evidence.factor else { throw EvidenceMissing(quantizer: name, evidence: "second moments of the inputs") }
        let feedback = try ErrorFeedback(factor, weights, on: grid)
        var best = try feedback.round(evidence.groups(weights, on: grid, for: name))
        guard evidence.searchesScales else { return try feedback.chosen(best) }
        func consider(_ groups: [GroupParameters]) throws { feedback.improve(&best, by: try feedback.round(groups)) }
        try consider(ScaleSearch.search(weights, on: grid, importance: evidence.importance, workers: evidence.workers).groups)
        try consider(ScaleSearch.search(weights, on: grid, importance: nil, workers: evidence.workers).groups)
        // With few codes the width of the range decides more.
        for share: Float in grid.bits <= 3 ? [0.95, 0.9, 0.85] : [] { try consider(grid.ranges(weights, share: share)) }
        return try feedback.chosen(best)
    }
}
