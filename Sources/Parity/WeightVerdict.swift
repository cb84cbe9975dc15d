import Conversion
import StrictJSON

/// A weight audit held against what was claimed.
public struct WeightVerdict: Sendable {
    public let audit: WeightAudit
    /// The bounds that do not hold, one sentence each.
    public let failures: [String]
    public var passed: Bool { failures.isEmpty }
    /// What was tested and came out, in one sentence.
    public let claim: String

    /// - Parameters:
    ///   - exact: every value must be equal.
    ///   - minimumSQNR: no weight may be below this many decibels.
    public init(_ audit: WeightAudit, exact: Bool, minimumSQNR: Double?) {
        self.audit = audit
        var failures: [String] = []
        if !audit.missing.isEmpty { failures.append("\(audit.missing.count) weights are missing, first \(audit.missing[0])") }
        if !audit.extra.isEmpty { failures.append("\(audit.extra.count) weights are not in the reference, first \(audit.extra[0])") }
        if !audit.reshaped.isEmpty { failures.append("\(audit.reshaped.count) weights have another shape, first \(audit.reshaped[0])") }
        if exact, let worst = audit.weights.first, audit.different > 0 {
            failures.append("\(audit.different) weights differ, worst \(worst.name) with \(worst.different) of \(worst.values) values")
        }
        if let minimumSQNR, let worst = audit.weights.first, worst.sqnr < minimumSQNR {
            failures.append("\(worst.name) has a signal-to-noise ratio of \(Self.decibels(worst.sqnr)), below \(Self.decibels(minimumSQNR))")
        }
        self.failures = failures
        let values = audit.weights.reduce(0) { $0 + $1.values }
        let counted =
            "\(audit.weights.count.grouped) weights, \(values.grouped) values: \(audit.identical.grouped) identical, \(audit.different.grouped) different"
        claim = failures.isEmpty ? counted + (exact ? "; every value is equal" : "") : counted + "; " + failures.joined(separator: "; ")
    }

    static func decibels(_ value: Double) -> String {
        value.isFinite ? "\((value * 100).rounded() / 100) dB" : value > 0 ? "infinite dB" : "\(value) dB"
    }

    /// The worst weights, one a line.
    var lines: [String] {
        audit.weights.prefix(10).filter { !$0.isIdentical }.map { weight in
            "\(weight.name): \(weight.referenceLayout) -> \(weight.candidateLayout), SQNR \(Self.decibels(weight.sqnr)), max error \(weight.maximumError.short), rms error \(weight.rootMeanSquareError.short), cosine \(weight.cosine.short)"
        }
    }

    public var json: JSONObject {
        let worst = audit.weights.prefix(20).filter { !$0.isIdentical }.map { weight -> JSONValue in
            .object([
                "name": .string(weight.name), "sqnr_db": .double(weight.sqnr), "max_abs": .double(weight.maximumError),
                "rms": .double(weight.rootMeanSquareError), "cosine": .double(weight.cosine), "different": .int(weight.different),
                "values": .int(weight.values), "reference_layout": .string(weight.referenceLayout),
                "candidate_layout": .string(weight.candidateLayout),
            ])
        }
        return [
            "schema": .int(1), "passed": .bool(passed), "claim": .string(claim),
            "weights": .object([
                "identical": .int(audit.identical), "different": .int(audit.different), "missing": .array(audit.missing.map(JSONValue.string)),
                "extra": .array(audit.extra.map(JSONValue.string)), "reshaped": .array(audit.reshaped.map(JSONValue.string)),
                "worst": .array(worst),
            ]),
        ]
    }
}
