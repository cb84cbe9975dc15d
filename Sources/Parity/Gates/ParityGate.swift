/// One bound held against what was found.
public struct ParityGate: Sendable {
    public enum Subject: String, Sendable { case weights, forward = "forward pass", consumer }
    public var subject: Subject
    /// "mean KLD <= 0.03 nats"
    public var requirement: String
    public var found: String
    /// Why it does not hold, in one sentence that names the culprit.
    public var failure: String?

    public var holds: Bool { failure == nil }
}

extension ParityGate {
    /// The gates of a weight audit.
    static func gates(_ audit: WeightAudit, _ bounds: ParityBounds) -> [ParityGate] {
        var gates: [ParityGate] = []
        let lists = [(audit.missing, "are missing"), (audit.extra, "are not in the reference"), (audit.reshaped, "have another shape")]
        let faults = lists.compactMap { names, fault in names.first.map { "\(names.count) weights \(fault), first \($0)" } }
        gates.append(
            ParityGate(
                subject: .weights, requirement: "the same weights", found: "\(audit.weights.count.grouped) of the same name and shape",
                failure: faults.isEmpty ? nil : faults.joined(separator: "; ")))
        if bounds.exact { gates.append(exact(audit.weights, "every value equal")) }
        if let bound = bounds.minimumSQNR {
            let uncovered = audit.weights.filter { weight in !bounds.weights.contains { $0.pattern.matches(weight.name) } }
            gates.append(sqnr(uncovered, bound, "each weight"))
        }
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
        return gates
    }

    private static func exact(_ weights: [WeightComparison], _ requirement: String) -> ParityGate {
        let different = weights.filter { !$0.isIdentical }
        return ParityGate(
            subject: .weights, requirement: requirement, found: "\(different.count.grouped) of \(weights.count.grouped) weights differ",
            failure: different.first.map { "\(different.count) weights differ, worst \($0.name) with \($0.different) of \($0.values) values" })
    }

    /// `weights` are worst first.
    private static func sqnr(_ weights: [WeightComparison], _ bound: Double, _ subject: String) -> ParityGate {
        let worst = weights.first
        let fails = worst.map { !($0.sqnr >= bound) } ?? false
        return ParityGate(
            subject: .weights, requirement: "SQNR of \(subject) >= \(bound.decibels)",
            found: worst.map { "\($0.sqnr.decibels) (\($0.name))" } ?? "none",
            failure: fails ? worst.map { "\($0.name) has a signal-to-noise ratio of \($0.sqnr.decibels), below \(bound.decibels)" } : nil)
    }

    /// The gates of a forward comparison.
    static func gates(_ forward: ForwardComparison, _ bounds: ParityBounds) -> [ParityGate] {
        var gates: [ParityGate] = []
        func most(_ bound: Double?, _ name: String, _ value: Double) {
            guard let bound else { return }
            let failure = value <= bound ? nil : "\(name) \(value.short) is above \(bound)"
            gates.append(ParityGate(subject: .forward, requirement: "\(name) <= \(bound)", found: value.short, failure: failure))
        }
        func least(_ bound: Double?, _ name: String, _ value: Double) {
            guard let bound else { return }
            let failure = value >= bound ? nil : "\(name) \(value.short) is below \(bound)"
            gates.append(ParityGate(subject: .forward, requirement: "\(name) >= \(bound)", found: value.short, failure: failure))
        }
        let predictions = forward.predictions
        // A compact reference cannot show all of the divergence: what it may hide counts.
        most(bounds.maximumKLD, "mean KLD", predictions.kld.mean + (predictions.hiddenDivergence > 1e-6 ? predictions.hiddenDivergence : 0))
        most(bounds.maximumKLD99, "99 % KLD", predictions.kld.p99)
        least(bounds.minimumTop1, "top-1 agreement", predictions.top1)
        if predictions.scoredTokens > 0 { most(bounds.maximumPerplexityRatio, "perplexity ratio", predictions.perplexityRatio) }
        if let worst = forward.layers.filter({ $0.expertAgreement != nil }).min(by: { ($0.expertAgreement ?? 1) < ($1.expertAgreement ?? 1) }) {
            least(bounds.minimumExpertAgreement, "expert agreement in layer \(worst.layer)", worst.expertAgreement ?? 1)
        }
        if let mtp = forward.mtp { most(bounds.maximumMTPKLD, "mean KLD of the multi-token prediction", mtp.kld.mean) }
        return gates
    }
}
