import Foundation
import Tensors

/// Mean, median, 99th percentile and maximum. One NaN among the values makes the mean and the maximum NaN.
package struct Distribution: Sendable, Equatable {
    package var mean = 0.0
    package var median = 0.0
    package var p99 = 0.0
    package var maximum = 0.0

    /// - Parameter sorted: by ``Figures/ascending(_:)``, NaN last.
    init(sorted: [Double]) {
        guard !sorted.isEmpty else { return }
        mean = sorted.reduce(0, +) / Double(sorted.count)
        median = sorted[sorted.count / 2]
        p99 = sorted[min(sorted.count - 1, sorted.count * 99 / 100)]
        maximum = sorted[sorted.count - 1]
    }
}

/// How two next-token distributions at one position differ.
struct PositionDifference: Sendable {
    /// KL(reference || candidate) in nats.
    var divergence: Double
    /// What a reference that keeps only its likeliest tokens may hide of the divergence, at most.
    var hidden = 0.0
    /// How far the reference's logits put its own choice above the candidate's; nil where both choose the same.
    var margin: Double?
    /// Tokens that both sides have among their five likeliest.
    var sharedTop5: Int
    /// Log probabilities of the token that follows, where one does.
    var target: (reference: Double, candidate: Double)?

    /// Whether both sides were distributions; where one was not, nothing is known and the position counts as a disagreement.
    var isJudged: Bool { !divergence.isNaN }

    /// A position at which the logits of a side are no distribution.
    static func unjudged(target: (reference: Double, candidate: Double)?) -> PositionDifference {
        PositionDifference(divergence: .nan, margin: .nan, sharedTop5: 0, target: target)
    }
}

/// Next-token distributions of a candidate beside those of a reference, over many positions.
package struct PredictionComparison: Sendable {
    package var positions = 0
    /// Positions at which the logits of a side are NaN or infinite, so that nothing could be compared.
    package var unjudgedPositions = 0
    /// KL(reference || candidate), in nats, from F32 logits.
    package var kld = Distribution(sorted: [])
    /// The divergences of all positions, smallest first.
    package var divergences: [Double] = []
    /// What a compact reference may hide of the mean divergence, at most; 0 if all logits were compared.
    package var hiddenDivergence = 0.0
    package var top1 = 1.0
    package var top5 = 1.0
    /// The reference's margins at positions where the sides prefer different tokens, smallest first.
    package var margins: [Double] = []
    package var scoredTokens = 0
    package var referencePerplexity = 0.0
    package var candidatePerplexity = 0.0
    /// Mean difference of log probabilities, paired by token, and its standard error.
    package var logPerplexityDifference = 0.0
    package var logPerplexityError = 0.0

    package var perplexityRatio: Double { candidatePerplexity / referencePerplexity }

    init(_ differences: [PositionDifference], vocabulary: Int) {
        positions = differences.count
        guard positions > 0 else { return }
        unjudgedPositions = differences.count { !$0.isJudged }
        divergences = Figures.ascending(differences.map(\.divergence))
        kld = Distribution(sorted: divergences)
        hiddenDivergence = differences.reduce(0) { $0 + $1.hidden } / Double(positions)
        margins = Figures.ascending(differences.compactMap(\.margin))
        top1 = 1 - Double(margins.count) / Double(positions)
        top5 = Double(differences.reduce(0) { $0 + $1.sharedTop5 }) / Double(positions * min(5, max(1, vocabulary)))
        let targets = differences.compactMap(\.target)
        scoredTokens = targets.count
        guard scoredTokens > 0 else { return }
        let count = Double(scoredTokens)
        referencePerplexity = exp(-targets.reduce(0) { $0 + $1.reference } / count)
        candidatePerplexity = exp(-targets.reduce(0) { $0 + $1.candidate } / count)
        let changes = targets.map { $0.reference - $0.candidate }
        logPerplexityDifference = changes.reduce(0, +) / count
        let variance = changes.reduce(0) { $0 + ($1 - logPerplexityDifference) * ($1 - logPerplexityDifference) } / max(1, count - 1)
        logPerplexityError = (variance / count).squareRoot()
    }

    /// A margin below which another preferred token says little: the 99th percentile of the margins at which mere rounding
    /// (the noise floor) changed the preferred token, or where that is not known 0.05.
    package static func nearTieMargin(_ noiseFloor: PredictionComparison?) -> Double {
        guard let margins = noiseFloor?.margins, !margins.isEmpty else { return 0.05 }
        let margin = margins[min(margins.count - 1, margins.count * 99 / 100)]
        return margin.isFinite ? margin : 0.05
    }

    /// Positions where the sides prefer different tokens although the reference prefers its own clearly, and where it hardly does.
    package func disagreements(margin: Double) -> (clear: Int, nearTies: Int) {
        let near = margins.count { $0 <= margin }
        return (margins.count - near, near)
    }
}
