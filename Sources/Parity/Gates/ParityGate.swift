import Tensors

/// One bound held against what was found.
package struct ParityGate: Sendable {
    package enum Subject: String, Sendable { case weights, forward = "forward pass", consumer }
    package var subject: Subject
    /// "mean KLD <= 0.03 nats"
    package var requirement: String
    package var found: String
    /// Why it does not hold, in one sentence that names the culprit.
    package var failure: String?

    package var holds: Bool { failure == nil }
}

extension ParityGate {
    /// The gates of a weight audit: the same weights on both sides, then for each weight the bounds that were given, or where none
    /// were those of its own claim.
    static func gates(_ audit: WeightAudit, _ bounds: ParityBounds, _ claims: ParityClaims?) -> [ParityGate] {
        var gates = [sameWeights(audit)]
        if let first = audit.configuration.first {
            gates.append(
                ParityGate(
                    subject: .weights, requirement: "the same model by config.json", found: "\(audit.configuration.count) fields differ",
                    failure: "the candidate is another model of the same weights: \(first)"))
        }
        if let gate = leftOut(audit, bounds) { gates.append(gate) }
        if bounds.exact { gates.append(exact(audit.weights, "every value equal")) }
        var left = audit.weights
        for rule in bounds.weights {
            let matched = left.filter { rule.pattern.matches($0.name) }
            left.removeAll { rule.pattern.matches($0.name) }
            if matched.isEmpty {
                gates.append(
                    ParityGate(
                        subject: .weights, requirement: "bounds on \(rule.pattern)", found: "no weight",
                        failure: "the policy's pattern \(rule.pattern) matches no weight"))
            }
            if rule.exact { gates.append(exact(matched, "every value of \(rule.pattern) equal")) }
            if let bound = rule.minimumSQNR { gates.append(sqnr(matched, bound, "\(rule.pattern)")) }
        }
        if let bound = bounds.minimumSQNR { gates.append(sqnr(left, bound, "each weight")) }
        guard let claims, !bounds.exact else { return gates }
        for claim in ParityClaim.allCases {
            let members = left.filter { claims[$0.name] == claim }
            guard !members.isEmpty else { continue }
            if claim.bounds.exact { gates.append(exact(members, "every value equal of weights that are \(claim.participle)")) }
            if bounds.minimumSQNR == nil, let bound = claim.bounds.minimumSQNR {
                gates.append(sqnr(members, bound, "each weight that is \(claim.participle)"))
            }
            switch claim {
            case .cast: gates.append(rounded(members))
            case .eightBit, .fourBit, .lowBit:
                gates.append(groups(members, bounds.minimumSQNR ?? claim.bounds.minimumSQNR ?? 0, "each weight that is \(claim.participle)"))
            case .repack, .dequantize, .none: break
            }
        }
        return gates
    }

    private static func sameWeights(_ audit: WeightAudit) -> ParityGate {
        let lists = [(audit.missing, "are missing"), (audit.extra, "are not in the reference"), (audit.reshaped, "have another shape")]
        var faults = lists.compactMap { names, fault in names.first.map { "\(names.count) weights \(fault), first \($0)" } }
        if audit.weights.isEmpty { faults.append("no weight could be compared") }
        return ParityGate(
            subject: .weights, requirement: "the same weights", found: "\(audit.weights.count.grouped) of the same name and shape",
            failure: faults.isEmpty ? nil : faults.joined(separator: "; "))
    }

    /// Multi-token-prediction modules that the reference has and the candidate lacks.
    private static func leftOut(_ audit: WeightAudit, _ bounds: ParityBounds) -> ParityGate? {
        guard let first = audit.leftOut.first else { return nil }
        let found = "\(audit.leftOut.count.grouped) weights of the multi-token prediction are left out"
        let isAllowed = bounds.allowsMissingMTP || !audit.promisesLeftOut
        return ParityGate(
            subject: .weights, requirement: "the multi-token prediction is there" + (isAllowed ? ", or may be left out" : ""), found: found,
            failure: isAllowed ? nil : "\(found), first \(first); allow it with --without-mtp if the candidate's readers have no such module")
    }

    private static func exact(_ weights: [WeightComparison], _ requirement: String) -> ParityGate {
        let different = weights.filter { !$0.isIdentical }
        return ParityGate(
            subject: .weights, requirement: requirement, found: "\(different.count.grouped) of \(weights.count.grouped) weights differ",
            failure: different.min(by: WeightComparison.isWorse).map {
                "\(different.count) weights differ, worst \($0.name) with \($0.different) of \($0.values) values"
            })
    }

    /// Every weight is judged, whatever the order that they are given in.
    private static func sqnr(_ weights: [WeightComparison], _ bound: Double, _ subject: String) -> ParityGate {
        let worst = weights.min(by: WeightComparison.isWorse)
        let failing = weights.filter { !$0.keeps(minimumSQNR: bound) }.min(by: WeightComparison.isWorse)
        return ParityGate(
            subject: .weights, requirement: "SQNR of \(subject) >= \(bound.decibels)",
            found: worst.map { "\($0.sqnr.decibels) (\($0.name))" } ?? "none",
            failure: failing.map { weight in
                weight.sqnr.isFinite
                    ? "\(weight.name) has a signal-to-noise ratio of \(weight.sqnr.decibels), below \(bound.decibels)"
                    : "\(weight.name) has a signal-to-noise ratio of \(weight.sqnr.decibels): it holds NaN or infinite values, so \(bound.decibels) cannot be kept"
            })
    }

    /// A cast rounds every value once: none is further away than a step of the narrower type.
    private static func rounded(_ weights: [WeightComparison]) -> ParityGate {
        let failing = weights.filter { $0.misrounded > 0 }
        return ParityGate(
            subject: .weights, requirement: "every value of weights that are cast within a step of their type",
            found: "\(failing.reduce(0) { $0 + $1.misrounded }.grouped) values are not",
            failure: failing.max { $0.misrounded < $1.misrounded }.map {
                "\($0.misrounded.grouped) of \($0.values.grouped) values of \($0.name) are further from the reference than rounding takes them"
            })
    }

    /// One scale of zeros, one row of another weight: too little to show in the ratio of a whole weight.
    private static func groups(_ weights: [WeightComparison], _ bound: Double, _ subject: String) -> ParityGate {
        let failing = weights.filter { !$0.keepsEveryGroup(minimumSQNR: bound) }
        return ParityGate(
            subject: .weights, requirement: "something left of every group of \(subject)",
            found: "\(failing.count.grouped) of \(weights.count.grouped) weights have a lost group",
            failure: failing.min(by: WeightComparison.isWorse).map {
                "\($0.name) has a group of values of which nothing is left: a scale or a row is wrong"
            })
    }

    /// The gates of a forward comparison; a bound whose figure is not a number, or was not computed, fails by name.
    static func gates(_ forward: ForwardComparison, _ bounds: ParityBounds) -> [ParityGate] {
        let predictions = forward.predictions
        var gates = [
            ParityGate(
                subject: .forward, requirement: "logits that are numbers at every position",
                found: "\((predictions.positions - predictions.unjudgedPositions).grouped) of \(predictions.positions.grouped)",
                failure: predictions.positions == 0
                    ? "the forward pass has no position to compare"
                    : predictions.unjudgedPositions == 0
                        ? nil : "the logits of \(predictions.unjudgedPositions.grouped) positions are NaN or infinite, so nothing is known about them"
            )
        ]
        if let mtp = forward.mtp, mtp.unjudgedPositions > 0 {
            gates.append(
                ParityGate(
                    subject: .forward, requirement: "multi-token predictions that are numbers",
                    found: "\((mtp.positions - mtp.unjudgedPositions).grouped) of \(mtp.positions.grouped)",
                    failure: "the logits of \(mtp.unjudgedPositions.grouped) multi-token predictions are NaN or infinite"))
        }
        // A compact reference cannot show all of the divergence: what it may hide counts.
        let hidden = predictions.hiddenDivergence
        let worst = forward.layers.filter { $0.expertAgreement != nil }.min { ($0.expertAgreement ?? 1) < ($1.expertAgreement ?? 1) }
        gates += [
            judged(bounds.maximumKLD, "mean KLD", predictions.kld.mean + (hidden <= 1e-6 ? 0 : hidden), isUpper: true),
            judged(bounds.maximumKLD99, "99 % KLD", predictions.kld.p99, isUpper: true),
            judged(bounds.minimumTop1, "top-1 agreement", predictions.top1, isUpper: false),
            judged(
                bounds.maximumPerplexityRatio, "perplexity ratio", predictions.scoredTokens > 0 ? predictions.perplexityRatio : nil, isUpper: true,
                missing: "no token is followed by another"),
            judged(
                bounds.minimumExpertAgreement, "expert agreement" + (worst.map { " in layer \($0.layer)" } ?? ""), worst?.expertAgreement,
                isUpper: false, missing: "the reference shows no routing of experts"),
            judged(
                bounds.maximumMTPKLD, "mean KLD of the multi-token prediction",
                forward.mtp.map { $0.unjudgedPositions == 0 ? $0.kld.mean : .nan }, isUpper: true, missing: "the two sides have no such predictions"),
        ].compactMap { $0 }
        return gates
    }

    /// The gates of bounds that only a forward pass can judge, where none was run.
    static func unjudgedForward(_ bounds: ParityBounds) -> [ParityGate] {
        let reason = "the forward pass was not compared"
        return [
            judged(bounds.maximumKLD, "mean KLD", nil, isUpper: true, missing: reason),
            judged(bounds.maximumKLD99, "99 % KLD", nil, isUpper: true, missing: reason),
            judged(bounds.minimumTop1, "top-1 agreement", nil, isUpper: false, missing: reason),
            judged(bounds.maximumPerplexityRatio, "perplexity ratio", nil, isUpper: true, missing: reason),
            judged(bounds.minimumExpertAgreement, "expert agreement", nil, isUpper: false, missing: reason),
            judged(bounds.maximumMTPKLD, "mean KLD of the multi-token prediction", nil, isUpper: true, missing: reason),
        ].compactMap { $0 }
    }

    /// One bound on one figure; nil if there is no bound.
    private static func judged(_ bound: Double?, _ name: String, _ value: Double?, isUpper: Bool, missing: String = "") -> ParityGate? {
        guard let bound else { return nil }
        let requirement = "\(name) \(isUpper ? "<=" : ">=") \(bound)"
        guard let value else {
            return ParityGate(
                subject: .forward, requirement: requirement, found: "not computed", failure: "\(name) could not be computed: \(missing)")
        }
        let holds = isUpper ? Figures.isAtMost(value, bound) : Figures.isAtLeast(value, bound)
        let fault = value.isFinite ? "is \(isUpper ? "above" : "below") \(bound)" : "is no number, so \(isUpper ? "<=" : ">=") \(bound) cannot hold"
        return ParityGate(
            subject: .forward, requirement: requirement, found: value.short, failure: holds ? nil : "\(name) \(value.short) \(fault)")
    }
}

extension ParityClaim {
    /// What has been done to a weight, in words.
    fileprivate var participle: String {
        switch self {
        case .repack: "copied or repacked"
        case .dequantize: "dequantized or widened"
        case .cast: "cast"
        case .eightBit: "quantized to 8 bits"
        case .fourBit: "quantized to 4 bits"
        case .lowBit: "quantized to 2 or 3 bits"
        case .none: "converted"
        }
    }
}
