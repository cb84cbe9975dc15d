import Formats

/// The layout's own encoder: round-to-nearest with the peer's scales, bit-identical with the peer.
package enum NearestRounding: Quantizer {
    package static let name = "rtn"

    package static func serves(_ layout: any WeightLayout) -> Bool { true }

    package static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) throws -> QuantizedRows {
        var groups = try evidence.groups(weights, on: grid, for: name).makeIterator()
        // As many as there are groups.
        return grid.quantize(weights) { _, _ in groups.next()! }
    }
}
