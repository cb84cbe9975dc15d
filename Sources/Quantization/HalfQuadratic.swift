import Formats

/// Half-quadratic quantization (Badri and Shaji, 2023), robust to outliers: min over codes and zero points (or scales) of the l_p norm of the error,
/// p = 3/4, by half-quadratic splitting.
package enum HalfQuadratic: Quantizer {
    package static let name = "hqq"

    package static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) -> QuantizedRows {
        grid.quantize(weights) { values, columns in grid.halfQuadratic(values, count: columns.count) }
    }
}
