import Checkpoints
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
    /// Mean of |r - c|.
    public var meanError: Double
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
    /// Weights of the multi-token-prediction modules, where the candidate's config.json says that it has none: left out, not lost.
    public var leftOut: [String] = []
    public var extra: [String] = []
    public var reshaped: [String] = []

    public var identical: Int { weights.count { $0.isIdentical } }
    public var different: Int { weights.count - identical }
    public var values: Int { weights.reduce(0) { $0 + $1.values } }
    public var isComplete: Bool { missing.isEmpty && extra.isEmpty && reshaped.isEmpty }
    public var worstSQNR: Double { weights.lazy.map(\.sqnr).min() ?? .infinity }

    /// Weights that share a name but for the numbers in it: the same place in every layer and expert.
    public struct Kind: Sendable {
        public var name: String
        public var weights = 0
        public var different = 0
        public var worst: WeightComparison
        /// The median over the kind's weights.
        public var medianSQNR = 0.0
        /// The mean over all values of the kind.
        public var meanError = 0.0
    }

    /// The kinds of weights, worst first.
    public var kinds: [Kind] {
        var order: [String] = []
        var members: [String: [WeightComparison]] = [:]
        for weight in weights {
            let name = WeightName.kind(weight.name)
            if members[name] == nil { order.append(name) }
            members[name, default: []].append(weight)
        }
        return order.compactMap { name in
            guard let group = members[name], let worst = group.first else { return nil }
            let values = group.reduce(0) { $0 + $1.values }
            let sum = group.reduce(0) { $0 + $1.meanError * Double($1.values) }
            return Kind(
                name: name, weights: group.count, different: group.count { !$0.isIdentical }, worst: worst,
                medianSQNR: group[group.count / 2].sqnr, meanError: values == 0 ? 0 : sum / Double(values))
        }
    }
}
