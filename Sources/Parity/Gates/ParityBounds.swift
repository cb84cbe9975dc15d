import Architectures
import Conversion
import Foundation
import Tensors

/// Bounds that a comparison must keep; nil where none was asked for.
public struct ParityBounds: Sendable {
    /// Bounds on the weights that a pattern matches; of several rules the first that matches holds.
    package struct WeightRule: Sendable {
        package var pattern: ModulePattern
        package var exact: Bool
        package var minimumSQNR: Double?

        package init(pattern: ModulePattern, exact: Bool = false, minimumSQNR: Double? = nil) {
            self.pattern = pattern
            self.exact = exact
            self.minimumSQNR = minimumSQNR
        }
    }

    /// Every value of every weight must be equal.
    public var exact = false
    /// The candidate may lack the reference's multi-token-prediction modules, as some readers have none.
    public var allowsMissingMTP = false
    /// Decibels, each weight.
    public var minimumSQNR: Double?
    /// Nats; of the mean over all positions.
    public var maximumKLD: Double?
    /// Nats; of the 99th percentile over all positions.
    public var maximumKLD99: Double?
    /// The least share of positions, 0 to 1, that prefer the same token.
    public var minimumTop1: Double?
    /// The least share, 0 to 1, of experts that are chosen alike.
    public var minimumExpertAgreement: Double?
    /// Candidate's perplexity by the reference's.
    public var maximumPerplexityRatio: Double?
    /// Nats; of the multi-token-prediction module.
    public var maximumMTPKLD: Double?
    package var weights: [WeightRule] = []

    /// Bounds as given; what is nil is not asked for.
    public init(
        exact: Bool = false, minimumSQNR: Double? = nil, maximumKLD: Double? = nil, minimumTop1: Double? = nil, maximumPerplexityRatio: Double? = nil
    ) {
        self.exact = exact
        self.minimumSQNR = minimumSQNR
        self.maximumKLD = maximumKLD
        self.minimumTop1 = minimumTop1
        self.maximumPerplexityRatio = maximumPerplexityRatio
    }

    /// These bounds, and those of `other` where these are silent.
    /// What `other` says of all weights at once is left out if `ofWeights` is false: claims speak of each weight by itself.
    package func filled(from other: ParityBounds, ofWeights: Bool = true) -> ParityBounds {
        var result = self
        result.allowsMissingMTP = allowsMissingMTP || other.allowsMissingMTP
        if ofWeights {
            result.exact = exact || other.exact
            result.minimumSQNR = minimumSQNR ?? other.minimumSQNR
        }
        result.maximumKLD = maximumKLD ?? other.maximumKLD
        result.maximumKLD99 = maximumKLD99 ?? other.maximumKLD99
        result.minimumTop1 = minimumTop1 ?? other.minimumTop1
        result.minimumExpertAgreement = minimumExpertAgreement ?? other.minimumExpertAgreement
        result.maximumPerplexityRatio = maximumPerplexityRatio ?? other.maximumPerplexityRatio
        result.maximumMTPKLD = maximumMTPKLD ?? other.maximumMTPKLD
        result.weights = weights + other.weights
        return result
    }

    /// Whether any bound can only be judged by a forward pass.
    package var needsForward: Bool {
        [maximumKLD, maximumKLD99, minimumTop1, minimumExpertAgreement, maximumPerplexityRatio, maximumMTPKLD].contains { $0 != nil }
    }
}

/// Bounds in a file, under the names of the options of `recast verify`:
///
/// ```yaml
/// claim: 4-bit                 # its default gates, where the file says nothing else
/// max-kld: 0.02
/// min-top1: 0.96
/// weights:                     # the first match decides
///   - match: "*.self_attn.*"
///     exact: true
///   - match: "*.mlp.experts.*"
///     min-sqnr: 15
/// ```
package struct ParityPolicy: Sendable {
    package var bounds = ParityBounds()
    package var claim: ParityClaim?

    package static let sizeLimit = 1 << 20

    /// Unknown keys are errors: a bound that does nothing hides a mistake.
    package init(yaml text: String, path: String) throws {
        func failure(_ reason: String) -> ParityFailure { .policy(path: path, reason: reason) }
        let document: Any?
        do { document = try PlainYAML.load(text) } catch { throw failure("the YAML text is malformed: \(error)") }
        guard let top = document as? [String: Any] else { throw failure("expected bounds such as `max-kld: 0.03`") }
        func number(_ value: Any, _ key: String) throws -> Double {
            guard let number = value as? Double ?? (value as? Int).map(Double.init), number.isFinite else { throw failure("\(key) must be a number") }
            return number
        }
        func flag(_ value: Any, _ key: String) throws -> Bool {
            guard let flag = value as? Bool else { throw failure("\(key) must be true or false") }
            return flag
        }
        for (key, value) in top {
            switch key {
            case "claim":
                guard let claim = (value as? String).flatMap(ParityClaim.init(rawValue:)) else {
                    throw failure("claim must be one of \(ParityClaim.allCases.map(\.rawValue).joined(separator: ", "))")
                }
                self.claim = claim
            case "exact": bounds.exact = try flag(value, key)
            case "without-mtp": bounds.allowsMissingMTP = try flag(value, key)
            case "min-sqnr": bounds.minimumSQNR = try number(value, key)
            case "max-kld": bounds.maximumKLD = try number(value, key)
            case "max-kld-p99": bounds.maximumKLD99 = try number(value, key)
            case "min-top1": bounds.minimumTop1 = try number(value, key)
            case "min-expert-agreement": bounds.minimumExpertAgreement = try number(value, key)
            case "max-perplexity-ratio": bounds.maximumPerplexityRatio = try number(value, key)
            case "max-mtp-kld": bounds.maximumMTPKLD = try number(value, key)
            case "weights":
                guard let rules = value as? [Any] else { throw failure("weights must be a list of `match:` and a bound") }
                bounds.weights = try rules.enumerated().map { index, entry in
                    let place = "weights, rule \(index + 1)"
                    guard let entry = entry as? [String: Any], let match = entry["match"] as? String else {
                        throw failure("\(place): `match:` is missing")
                    }
                    if let stray = entry.keys.first(where: { !["match", "exact", "min-sqnr"].contains($0) }) {
                        throw failure("\(place): unknown key \"\(stray)\"")
                    }
                    guard let pattern = try? ModulePattern(match) else { throw failure("\(place): \"\(match)\" is not a regular expression") }
                    guard entry.keys.count > 1, entry["exact"] as? Bool != false || entry["min-sqnr"] != nil else {
                        throw failure("\(place): no bound is given; say `exact: true` or `min-sqnr:`")
                    }
                    return .init(
                        pattern: pattern, exact: try entry["exact"].map { try flag($0, place) } ?? false,
                        minimumSQNR: try entry["min-sqnr"].map { try number($0, place) })
                }
            default: throw failure("unknown key \"\(key)\"")
            }
        }
    }

    package init(reading path: String) throws {
        try self.init(yaml: String(decoding: FileTree.read(path, limit: Self.sizeLimit), as: UTF8.self), path: path)
    }
}
