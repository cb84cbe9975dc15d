import Architectures
import Checkpoints
import Foundation
import Tensors

/// How far one weight of the candidate is from the reference.
package struct WeightComparison: Sendable, Equatable {
    package var name: String
    package var values: Int
    /// Values that are not equal; two NaNs count as equal.
    package var different: Int
    /// 10 log10(sum r^2 / sum (r - c)^2): infinite when nothing differs, NaN when a side holds a NaN or an infinity that the other has not.
    package var sqnr: Double
    package var maximumError: Double
    /// Mean of |r - c|.
    package var meanError: Double
    /// Root of the mean squared error.
    package var rootMeanSquareError: Double
    package var cosine: Double
    /// The largest sum of (r - c)^2 of a group of which nothing is left, by the mean sum of r^2 of all groups. A group is what shares a scale; of it
    /// nothing is left where its values point elsewhere, by a cosine of 0.3 at most. 0 where there is none.
    package var lostGroup: Double
    /// Values that are further from the reference than one step of the two sides' dense types; all that differ where the candidate's is coded.
    package var misrounded: Int
    package var referenceLayout: String
    package var candidateLayout: String

    package var isIdentical: Bool { different == 0 }

    /// Whether the signal-to-noise ratio keeps a bound. Only a weight without any difference may have an infinite one.
    package func keeps(minimumSQNR bound: Double) -> Bool { isIdentical || Figures.isAtLeast(sqnr, bound) }

    /// Whether every group kept something. Small groups may drown in what error feedback adds to them: a group counts whose errors are larger than
    /// those that a weight of `bound` decibels has on average, and than a tenth of what a group holds.
    package func keepsEveryGroup(minimumSQNR bound: Double) -> Bool {
        lostGroup == 0 || Figures.isAtMost(lostGroup, Swift.min(0.1, pow(10, -bound / 10)))
    }

    /// Whether `a` is further from its reference than `b`: what cannot be measured comes first, then the lower ratio.
    static func isWorse(_ a: WeightComparison, _ b: WeightComparison) -> Bool {
        if a.isIdentical != b.isIdentical { return b.isIdentical }
        if Figures.isLower(a.sqnr, than: b.sqnr) { return true }
        if Figures.isLower(b.sqnr, than: a.sqnr) { return false }
        if Figures.isBelow(b.maximumError, a.maximumError) { return true }
        if Figures.isBelow(a.maximumError, b.maximumError) { return false }
        return a.name < b.name
    }
}

/// The comparison of two checkpoints, weight by weight.
package struct WeightAudit: Sendable {
    /// Worst first.
    package var weights: [WeightComparison] = []
    /// Weights of one side that the other lacks, or has in another shape.
    package var missing: [String] = []
    /// Missing weights of layers that the reference's `num_hidden_layers` does not count: its multi-token-prediction modules.
    package var leftOut: [String] = []
    /// Scales of activations, cache and outputs that one side lacks, where the weight beside them has another layout there.
    package var companions: [String] = []
    /// Whether the reference's config.json promises those modules.
    package var promisesLeftOut = false
    package var extra: [String] = []
    package var reshaped: [String] = []
    /// Fields of config.json that make the two sides different models.
    package var configuration: [String] = []

    package var identical: Int { weights.count { $0.isIdentical } }
    package var different: Int { weights.count - identical }
    package var values: Int { weights.reduce(0) { $0 + $1.values } }
    package var isComplete: Bool { missing.isEmpty && leftOut.isEmpty && extra.isEmpty && reshaped.isEmpty }

    /// Weights that share a name but for the numbers in it: the same place in every layer and expert.
    package struct Kind: Sendable {
        package var name: String
        package var weights = 0
        package var different = 0
        package var worst: WeightComparison
        /// The median over the kind's weights.
        package var medianSQNR = 0.0
        /// The mean over all values of the kind.
        package var meanError = 0.0
    }

    /// The kinds of weights, worst first.
    package var kinds: [Kind] {
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
