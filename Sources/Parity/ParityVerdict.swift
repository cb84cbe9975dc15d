import Consumers
import Conversion
import StrictJSON

/// What `recast verify` found: weights, forward pass, consumer's contract, and whether the bounds hold.
package struct ParityVerdict: Sendable {
    /// Nil where the reference is a file of logits and has no weights.
    package let weights: WeightAudit?
    package let forward: ForwardTrial?
    package let consumer: ConsumerReport?
    /// The loosest of the claims whose default bounds hold where none were given; nil if all bounds were given.
    package let claimed: ParityClaim?
    package let gates: [ParityGate]

    package var failures: [String] { gates.compactMap(\.failure) }
    /// Whether something was judged, and every bound holds.
    package var passed: Bool { !gates.isEmpty && gates.allSatisfy(\.holds) }

    /// - Parameters:
    ///   - bounds: those that were asked for. One that cannot be judged, as there is no forward pass, fails.
    ///   - claims: whose bounds hold for each weight, and for the forward pass if there is one, where `bounds` are silent.
    package init(
        weights: WeightAudit?, forward: ForwardTrial? = nil, consumer: ConsumerReport? = nil, bounds: ParityBounds = ParityBounds(),
        claims: ParityClaims? = nil
    ) {
        self.weights = weights
        self.forward = forward
        self.consumer = consumer
        claimed = claims?.loosest
        let filled = bounds.filled(from: claims?.loosest.bounds ?? ParityBounds(), ofWeights: false)
        gates =
            (weights.map { ParityGate.gates($0, bounds, claims) } ?? [])
            + (forward.map { ParityGate.gates($0.comparison, filled) } ?? ParityGate.unjudgedForward(bounds)) + (consumer?.gates ?? [])
    }

    /// What was tested and what came out, in one sentence.
    package var claim: String {
        var parts: [String] = []
        if let weights {
            parts.append(
                "\(weights.weights.count.grouped) weights, \(weights.values.grouped) values: \(weights.identical.grouped) identical, \(weights.different.grouped) different"
            )
            if weights.isComplete, weights.different == 0 { parts.append("every value is equal") }
            if !weights.leftOut.isEmpty {
                parts.append("\(weights.leftOut.count.grouped) weights of the multi-token prediction are left out")
            }
        }
        if let predictions = forward?.comparison.predictions {
            parts.append(
                "over \(predictions.positions.grouped) positions mean KL(reference || candidate) \(predictions.kld.mean.short) nats, the same token preferred in \(predictions.top1.percent)"
            )
        } else {
            parts.append("the forward pass was not compared")
        }
        if let consumer { parts.append(consumer.sentence) }
        return (parts + failures).joined(separator: "; ")
    }

    // MARK: Text

    package var text: String {
        var blocks = [weightLines, forwardLines, consumer?.lines ?? []].filter { !$0.isEmpty }
        if let claimed, claimed != .none { blocks.append(["bounds where none were given: those of a \(claimed.rawValue) conversion"]) }
        return (Array(blocks.joined(separator: [""])) + [(passed ? "passed: " : "FAILED: ") + claim]).joined(separator: "\n")
    }

    /// The worst weights and the kinds of weights, one a line.
    var weightLines: [String] {
        guard let weights, weights.different > 0 else { return [] }
        let worst = weights.weights.prefix(10).filter { !$0.isIdentical }.map { weight in
            "\(weight.name): \(weight.referenceLayout) -> \(weight.candidateLayout), SQNR \(weight.sqnr.decibels), max error \(weight.maximumError.short), mean error \(weight.meanError.short), cosine \(weight.cosine.short)"
        }
        let kinds = weights.kinds.filter { $0.different > 0 }.map { kind in
            "\(kind.different) of \(kind.weights) x \(kind.name): SQNR worst \(kind.worst.sqnr.decibels), median \(kind.medianSQNR.decibels), mean error \(kind.meanError.short)"
        }
        return ["worst weights:"] + worst.map { "  " + $0 } + ["by kind, worst first:"] + kinds.map { "  " + $0 }
    }

    /// The figures of the forward pass, layer by layer and then of the logits; none if it was not compared.
    var forwardLines: [String] {
        guard let forward else { return [] }
        var lines = forward.comparison.layers.map { layer in
            var line = "after layer \(layer.layer): SQNR \(layer.sqnr.decibels)"
            if let noise = forward.noiseFloor?.layers.first(where: { $0.layer == layer.layer }) { line += " (noise floor \(noise.sqnr.decibels))" }
            line += ", cosine \(layer.cosine.short)"
            if let agreement = layer.expertAgreement {
                line +=
                    ", experts agreed \(agreement.percent), \(layer.flippedExperts.grouped) flipped, \(layer.flippedGroups.grouped) tokens in other groups, weight shift \(layer.weightShift.short)"
                if layer.unreachedExperts > 0 { line += ", \(layer.unreachedExperts) experts reached by no token" }
            }
            return line
        }
        if !lines.isEmpty { lines.append("") }
        lines += Self.lines(forward.comparison.predictions, forward.noiseFloor?.predictions, "")
        if let mtp = forward.comparison.mtp { lines += Self.lines(mtp, nil, "multi-token prediction: ") }
        if let worst = forward.comparison.worstStep, worst.sqnr.isFinite { lines.append("the sides part most in layer \(worst.layer)") }
        if forward.noiseFloor != nil { lines.append("noise floor: \(forward.noiseFloorName)") }
        if let sentence = forward.latentNorms { lines.append(sentence) }
        return lines
    }

    private static func lines(_ predictions: PredictionComparison, _ floor: PredictionComparison?, _ prefix: String) -> [String] {
        func beside(_ figure: (PredictionComparison) -> Double) -> String {
            figure(predictions).short + (floor.map { " (noise floor \(figure($0).short))" } ?? "")
        }
        let margin = PredictionComparison.nearTieMargin(floor)
        let disagreements = predictions.disagreements(margin: margin)
        var lines = [
            prefix
                + "KLD in nats, KL(reference || candidate), F32: mean \(beside(\.kld.mean)), median \(beside(\.kld.median)), 99 % \(beside(\.kld.p99)), max \(beside(\.kld.maximum))",
            prefix
                + "top-1 agreement \(beside(\.top1)), top-5 \(beside(\.top5)); \(disagreements.clear) clear disagreements, \(disagreements.nearTies) near-ties (margin up to \(margin.short))",
        ]
        if predictions.hiddenDivergence > 0 {
            lines.append(
                prefix + "the reference keeps only its likeliest tokens: it may hide up to \(predictions.hiddenDivergence.short) nats of the mean")
        }
        if predictions.scoredTokens > 0 {
            lines.append(
                prefix
                    + "perplexity \(predictions.referencePerplexity.short) -> \(predictions.candidatePerplexity.short), log difference \(predictions.logPerplexityDifference.short) +- \(predictions.logPerplexityError.short) over \(predictions.scoredTokens.grouped) tokens"
            )
        }
        return lines
    }
}
