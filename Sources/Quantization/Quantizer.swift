import Formats
import Runtime
import Tensors

/// One way to choose the codes, scales and zero points of a weight. One file a quantizer, listed in ``QuantizerName/registry``.
package protocol Quantizer: Sendable {
    /// On the command line and in recipes.
    static var name: String { get }
    /// What it must know about the inputs of a weight.
    static var needs: StatisticsNeed { get }
    /// Whether it multiplies the columns of a weight, so that something before the weight has to be divided.
    static var scalesInputs: Bool { get }
    /// Whether it can choose for a layout; dense ones have nothing to choose.
    static func serves(_ layout: any WeightLayout) -> Bool
    /// Chooses for rows of a weight; rows do not depend on each other.
    static func quantize(_ weights: WeightRows, on grid: IntegerGrid, _ evidence: RowEvidence) throws -> QuantizedRows
}

extension Quantizer {
    package static var needs: StatisticsNeed { .nothing }
    package static var scalesInputs: Bool { false }
    package static func serves(_ layout: any WeightLayout) -> Bool { layout is any IntegerCodedLayout }
}

/// Statistics of a weight's inputs x: nothing, the mean of x^2 in every column, or the sum of x x^T.
package enum StatisticsNeed: Int, Sendable, Comparable {
    case nothing, moments, hessian

    package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

/// What is known when rows are quantized: as much as ``Quantizer/needs`` asks for.
package struct RowEvidence {
    /// How much every column counts; nil for all alike.
    package var importance: [Float]?
    /// The factored second moments of the inputs.
    package var factor: (any FeedbackFactor)?
    /// By what the columns are multiplied.
    package var scaling: ActivationScaling?
    /// Whether better scales than the layout's own are looked for, where a quantizer can do without.
    package var searchesScales = true
    package var workers = 1
    /// Makes the parameters that the layout's own encoder gives the groups of the rows.
    package var nearest: (() throws -> [GroupParameters])?

    package init(importance: [Float]? = nil, nearest: (() throws -> [GroupParameters])? = nil) {
        self.importance = importance
        self.nearest = nearest
    }
}

extension RowEvidence {
    /// The layout's own parameters, one for every group of the rows.
    func groups(_ weights: WeightRows, on grid: IntegerGrid, for quantizer: String) throws -> [GroupParameters] {
        guard let groups = try nearest?(), groups.count == weights.rows * grid.groupCount(weights.columns) else {
            throw EvidenceMissing(quantizer: quantizer, evidence: "scales of the layout's own")
        }
        return groups
    }
}

/// A quantizer that was not given what it needs.
package struct EvidenceMissing: Failure, Equatable {
    package var quantizer: String
    package var evidence: String

    package var kind: FailureKind { .usage }
    package var description: String { "the quantizer \(quantizer) was given no \(evidence)" }
}

/// Some rows of a weight as F32, row after row.
package struct WeightRows: Sendable {
    package var values: [Float]
    package var rows: Int
    package var columns: Int

    package init(values: [Float], rows: Int, columns: Int) {
        self.values = values
        self.rows = rows
        self.columns = columns
    }
}

/// The codes of some rows, `[rows, columns]`, and the parameters of their groups, `[rows, groups]`.
package struct QuantizedRows: Sendable, Equatable {
    package var codes: [UInt8]
    package var groups: [GroupParameters]

    package init(codes: [UInt8], groups: [GroupParameters]) {
        self.codes = codes
        self.groups = groups
    }
}
