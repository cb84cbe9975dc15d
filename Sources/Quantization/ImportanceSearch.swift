import Formats

/// As ``ScaleSearch``, but a column counts as much as its inputs' mean square (llama.cpp's importance matrix).
package enum ImportanceSearch: Quantizer {
    package static let name = "imatrix"
    package static let needs = StatisticsNeed.moments

    package static func serves(_ layout: any WeightLayout) -> Bool {
        layout is any IntegerCodedLayout || layout is any FloatCodedLayout || layout is any ImportanceWeightedLayout
    }

    package static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) -> QuantizedRows {
        ScaleSearch.search(weights, on: grid, importance: evidence.importance)
    }
}
