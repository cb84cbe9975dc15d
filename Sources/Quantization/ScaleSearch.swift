import Formats

/// Scales and zero points of least squared error: a grid search, refined in closed form.
package enum ScaleSearch: Quantizer {
    package static let name = "mse"

    package static func serves(_ layout: any WeightLayout) -> Bool { layout is any IntegerCodedLayout || layout is any FloatCodedLayout }

    package static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) -> QuantizedRows {
        search(weights, on: grid, importance: nil)
    }

    /// - Parameter importance: how much each column's error counts; nil for all alike.
    package static func search(_ weights: WeightRows, on grid: IntegerGrid, importance: [Float]?) -> QuantizedRows {
        let importance = importance ?? [Float](repeating: 1, count: weights.columns)
        return grid.quantize(weights) { values, columns in
            importance.withUnsafeBufferPointer { grid.search(values, importance: $0.baseAddress! + columns.lowerBound, count: columns.count) }
        }
    }

    /// The same, rows in parallel.
    static func search(_ weights: WeightRows, on grid: IntegerGrid, importance: [Float]?, workers: Int) throws -> QuantizedRows {
        try weights.inParallel(workers, groups: grid.groupCount(weights.columns)) { search($0, on: grid, importance: importance) }
    }
}
