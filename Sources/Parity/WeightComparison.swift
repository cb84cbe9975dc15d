import Tensors

/// How far one weight of the candidate is from the reference.
public struct WeightComparison: Sendable, Equatable {
    public var name: String
    public var values: Int
    /// Values that are not equal; two NaNs count as equal.
    public var different: Int
    /// 10 log10(sum r^2 / sum (r - c)^2): infinite when nothing differs.
    public var sqnr: Double
    public var maximumError: Double
    /// Root of the mean squared error.
    public var rootMeanSquareError: Double
    public var cosine: Double
    public var referenceLayout: String
    public var candidateLayout: String

    public var isIdentical: Bool { different == 0 }
}

/// The comparison of two checkpoints, weight by weight.
public struct WeightAudit: Sendable {
    /// Worst first.
    public var weights: [WeightComparison] = []
    /// Weights of one side that the other lacks, or has in another shape.
    public var missing: [String] = []
    public var extra: [String] = []
    public var reshaped: [String] = []

    public var identical: Int { weights.count { $0.isIdentical } }
    public var different: Int { weights.count - identical }
    public var isComplete: Bool { missing.isEmpty && extra.isEmpty && reshaped.isEmpty }
    public var worstSQNR: Double { weights.lazy.map(\.sqnr).min() ?? .infinity }
}
