import Formats
import Tensors

/// How the codes and scales of a weight are chosen, by the name on the command line and in recipes.
public enum QuantizerName: String, Sendable, CaseIterable {
    /// The layout's own encoder: round-to-nearest with the peer's scales, bit-identical with the peer.
    case rtn
    /// Scales and zero points of least squared error: a grid search, refined in closed form.
    case mse
    /// Half-quadratic quantization (Badri and Shaji, 2023): robust to outliers, needs no data.
    case hqq
    /// As ``mse``, but a column counts as much as its inputs' mean square (llama.cpp's importance matrix).
    case imatrix
    /// Rounding with error feedback through the inputs' second moments (Frantar et al., arXiv 2210.17323).
    case gptq
    /// Activation-aware scaling of input channels (Lin et al., arXiv 2306.00978).
    case awq

    /// What must be known about the inputs of a weight.
    public var needs: StatisticsNeed {
        switch self {
        case .rtn, .mse, .hqq: .nothing
        case .imatrix: .moments
        case .gptq, .awq: .hessian
        }
    }

    /// What weights take that no token reached, or that are not part of the forward pass.
    public var withoutStatistics: QuantizerName { needs == .nothing ? self : .mse }
}

/// Statistics of a weight's inputs x: nothing, the mean of x^2 in every column, or the sum of x x^T.
public enum StatisticsNeed: Int, Sendable, Comparable {
    case nothing, moments, hessian

    public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

/// Some rows of a weight as F32, row after row.
public struct WeightRows: Sendable {
    public var values: [Float]
    public var rows: Int
    public var columns: Int

    public init(values: [Float], rows: Int, columns: Int) {
        self.values = values
        self.rows = rows
        self.columns = columns
    }
}

/// The codes of some rows, `[rows, columns]`, and the parameters of their groups, `[rows, groups]`.
public struct QuantizedRows: Sendable, Equatable {
    public var codes: [UInt8]
    public var groups: [GroupParameters]

    public init(codes: [UInt8], groups: [GroupParameters]) {
        self.codes = codes
        self.groups = groups
    }
}

/// Chooses codes, scales and zero points for rows of a weight; rows do not depend on each other.
public protocol Quantizer: Sendable {
    func quantize(_ weights: WeightRows, on grid: IntegerGrid) -> QuantizedRows
}

/// Least squared error, every column as important as `importance` says (nil: all equal).
public struct ScaleSearch: Quantizer {
    public var importance: [Float]?

    public init(importance: [Float]? = nil) { self.importance = importance }

    public func quantize(_ weights: WeightRows, on grid: IntegerGrid) -> QuantizedRows {
        let importance = importance ?? [Float](repeating: 1, count: weights.columns)
        return grid.quantize(weights) { values, columns in
            importance.withUnsafeBufferPointer { grid.search(values, importance: $0.baseAddress! + columns.lowerBound, count: columns.count) }
        }
    }
}

/// min over codes and zero points (or scales) of the l_p norm of the error, p = 3/4, by half-quadratic splitting.
public struct HalfQuadratic: Quantizer {
    public init() {}

    public func quantize(_ weights: WeightRows, on grid: IntegerGrid) -> QuantizedRows {
        grid.quantize(weights) { values, columns in grid.halfQuadratic(values, count: columns.count) }
    }
}
