import Conversion
import Foundation
import StrictJSON

/// Bounds that a comparison must keep; nil where none was asked for.
public struct ParityBounds: Sendable {
    public var exact = false
    public var minimumSQNR: Double?
    public var maximumKLD: Double?
    public var minimumTop1: Double?
    public var maximumPerplexityRatio: Double?

    public init(
        exact: Bool = false, minimumSQNR: Double? = nil, maximumKLD: Double? = nil, minimumTop1: Double? = nil, maximumPerplexityRatio: Double? = nil
    ) {
        self.exact = exact
        self.minimumSQNR = minimumSQNR
        self.maximumKLD = maximumKLD
        self.minimumTop1 = minimumTop1
        self.maximumPerplexityRatio = maximumPerplexityRatio
    }
}

/// What `recast verify` found: weights, forward pass, noise floor, and whether the bounds hold.
public struct ParityVerdict: Sendable {
    public let weights: WeightVerdict
    public let forward: ForwardComparison?
    /// The reference against itself in BF16 arithmetic.
    public let noiseFloor: ForwardComparison?
    /// Bounds on the forward pass that do not hold, one sentence each.
    public let forwardFailures: [String]
    public var passed: Bool { weights.passed && forwardFailures.isEmpty }
    public let claim: String

    public init(weights audit: WeightAudit, forward: ForwardComparison?, noiseFloor: ForwardComparison?, bounds: ParityBounds) {
        weights = WeightVerdict(audit, exact: bounds.exact, minimumSQNR: bounds.minimumSQNR)
        self.forward = forward
        self.noiseFloor = noiseFloor
        var failures: [String] = []
        var sentence = weights.claim
        if let forward {
            let ratio = forward.candidatePerplexity / forward.referencePerplexity
            sentence +=
                "; over \(forward.positions.grouped) positions mean KL(reference || candidate) \(forward.kld.mean.short) nats, the same token preferred in \((forward.top1 * 100).short) %"
            if let bound = bounds.maximumKLD, !(forward.kld.mean <= bound) { failures.append("mean KLD \(forward.kld.mean.short) is above \(bound)") }
            if let bound = bounds.minimumTop1, !(forward.top1 >= bound) { failures.append("top-1 agreement \(forward.top1.short) is below \(bound)") }
            if let bound = bounds.maximumPerplexityRatio, !(ratio <= bound) { failures.append("perplexity ratio \(ratio.short) is above \(bound)") }
        }
        if forward == nil { sentence += "; the forward pass was not compared" }
        forwardFailures = failures
        claim = failures.isEmpty ? sentence : sentence + "; " + failures.joined(separator: "; ")
    }

    public var text: String {
        let figures = forwardLines.isEmpty ? [] : [""] + forwardLines
        return (weights.lines + figures + [(passed ? "passed: " : "FAILED: ") + claim]).joined(separator: "\n")
    }

    /// The figures of the forward pass, layer by layer and then of the logits; none if it was not compared.
    var forwardLines: [String] {
        guard let forward else { return [] }
        return Self.layerLines(forward, noiseFloor) + [""] + Self.figureLines(forward, noiseFloor)
    }

    private static func layerLines(_ forward: ForwardComparison, _ floor: ForwardComparison?) -> [String] {
        forward.layers.map { layer in
            var line = "after layer \(layer.layer): SQNR \(WeightVerdict.decibels(layer.sqnr))"
            if let noise = floor?.layers.first(where: { $0.layer == layer.layer }) { line += " (noise floor \(WeightVerdict.decibels(noise.sqnr)))" }
            line += ", cosine \(layer.cosine.short)"
            if let agreement = layer.expertAgreement {
                line +=
                    ", experts agreed \((agreement * 100).short) %, \(layer.flippedExperts.grouped) flipped, \(layer.flippedGroups.grouped) tokens in other groups"
                if layer.unreachedExperts > 0 { line += ", \(layer.unreachedExperts) experts reached by no token" }
            }
            return line
        }
    }

    private static func figureLines(_ forward: ForwardComparison, _ floor: ForwardComparison?) -> [String] {
        func beside(_ figure: (ForwardComparison) -> Double) -> String {
            figure(forward).short + (floor.map { " (noise floor \(figure($0).short))" } ?? "")
        }
        var lines = [
            "KLD in nats, KL(reference || candidate), F32: mean \(beside(\.kld.mean)), median \(beside(\.kld.median)), 99 % \(beside(\.kld.p99)), max \(beside(\.kld.maximum))",
            "top-1 agreement \(beside(\.top1)), top-5 \(beside(\.top5)); \(forward.clearDisagreements) clear disagreements, \(forward.nearTies) near-ties",
        ]
        if forward.scoredTokens > 0 {
            lines.append(
                "perplexity \(forward.referencePerplexity.short) -> \(forward.candidatePerplexity.short), log difference \(forward.logPerplexityDifference.short) +- \(forward.logPerplexityError.short) over \(forward.scoredTokens.grouped) tokens"
            )
        }
        if let worst = forward.worstStep, worst.sqnr.isFinite { lines.append("the sides part most in layer \(worst.layer)") }
        return lines
    }

    public var json: JSONObject {
        var object = weights.json
        object["passed"] = .bool(passed)
        object["claim"] = .string(claim)
        guard let forward else { return object }
        var figures = Self.figures(forward)
        if let noiseFloor {
            figures["noise_floor"] = .object([
                "kld_mean": .double(noiseFloor.kld.mean), "kld_p99": .double(noiseFloor.kld.p99), "kld_max": .double(noiseFloor.kld.maximum),
                "top1": .double(noiseFloor.top1), "perplexity": .double(noiseFloor.candidatePerplexity),
                "layers_sqnr_db": .array(noiseFloor.layers.map { .double($0.sqnr) }),
            ])
        }
        object["forward"] = .object(figures)
        return object
    }

    private static func figures(_ forward: ForwardComparison) -> JSONObject {
        [
            "positions": .int(forward.positions),
            "kld": .object([
                "mean": .double(forward.kld.mean), "median": .double(forward.kld.median), "p99": .double(forward.kld.p99),
                "max": .double(forward.kld.maximum),
            ]),
            "top1": .double(forward.top1), "top5": .double(forward.top5), "clear_disagreements": .int(forward.clearDisagreements),
            "near_ties": .int(forward.nearTies),
            "perplexity": .object([
                "reference": .double(forward.referencePerplexity), "candidate": .double(forward.candidatePerplexity),
                "log_difference": .double(forward.logPerplexityDifference), "standard_error": .double(forward.logPerplexityError),
                "tokens": .int(forward.scoredTokens),
            ]),
            "layers": .array(
                forward.layers.map { layer in
                    var object: JSONObject = ["layer": .int(layer.layer), "sqnr_db": .double(layer.sqnr), "cosine": .double(layer.cosine)]
                    if let agreement = layer.expertAgreement {
                        object["expert_agreement"] = .double(agreement)
                        object["flipped_experts"] = .int(layer.flippedExperts)
                        object["flipped_groups"] = .int(layer.flippedGroups)
                        object["weight_shift"] = .double(layer.weightShift)
                        object["unreached_experts"] = .int(layer.unreachedExperts)
                    }
                    return .object(object)
                }),
        ]
    }
}

extension Double {
    /// Four significant digits, without an exponent where a person would not write one.
    var short: String {
        guard isFinite, self != 0 else { return "\(self)" }
        let magnitude = Int(Foundation.log10(abs(self)).rounded(.down))
        let factor = Foundation.pow(10.0, Double(3 - magnitude))
        return "\((self * factor).rounded() / factor)"
    }
}
