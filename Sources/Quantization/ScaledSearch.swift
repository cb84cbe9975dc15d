import Formats

/// AWQ: activation-aware scaling of input channels (Lin et al., arXiv 2306.00978), then the best scales for what came of it.
package enum ScaledSearch: Quantizer {
    package static let name = "awq"
    package static let needs = StatisticsNeed.hessian
    package static let scalesInputs = true

    package static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) throws -> QuantizedRows {
        guard let scaling = evidence.scaling else { throw EvidenceMissing(quantizer: name, evidence: "scales of the inputs") }
        return try ScaleSearch.search(scaling.scaled(weights), on: grid, importance: evidence.importance, workers: evidence.workers)
    }
}
