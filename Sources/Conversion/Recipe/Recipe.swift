import Architectures
import Formats
import Quantization
import Tensors

/// Ordered rules that override the default choice of layouts. The first rule that matches a weight decides.
///
/// ```yaml
/// rules:
///   - match: "*.mlp.experts.*"      # a glob over names; "re:..." is a regular expression
///     to: int4-g32
///     quantizer: mse                # that of the command by default
///   - match: "*.self_attn.*"
///     to: keep                      # as stored
/// ```
package struct Recipe: Sendable, Equatable {
    package struct Rule: Sendable, Equatable {
        package var pattern: ModulePattern
        /// A layout's name, or `keep`.
        package var target: String
        /// Nil for the quantizer of the conversion.
        package var quantizer: QuantizerName?

        package init(pattern: ModulePattern, target: String, quantizer: QuantizerName? = nil) {
            self.pattern = pattern
            self.target = target
            self.quantizer = quantizer
        }
    }

    package var rules: [Rule]

    package init(rules: [Rule] = []) { self.rules = rules }

    package init(reading path: String) throws {
        try self.init(yaml: String(decoding: FileTree.read(path, limit: 1 << 20), as: UTF8.self), path: path)
    }

    /// Parses YAML. Unknown keys and layouts are errors: an option that does nothing hides a mistake.
    package init(yaml text: String, path: String) throws {
        func failure(_ reason: String) -> ConversionFailure { .recipe(path: path, reason: reason) }
        let document: Any?
        do { document = try PlainYAML.load(text) } catch { throw failure("the YAML text is malformed: \(error)") }
        guard let top = document as? [String: Any], let list = top["rules"] as? [Any] else {
            throw failure("expected `rules:` with a list of `match:` and `to:`")
        }
        if let stray = top.keys.first(where: { $0 != "rules" }) { throw failure("unknown key \"\(stray)\"; expected only `rules`") }
        rules = try list.enumerated().map { index, entry in
            let place = "rule \(index + 1)"
            guard let entry = entry as? [String: Any] else { throw failure("\(place): expected `match:` and `to:`") }
            if let stray = entry.keys.first(where: { !["match", "to", "quantizer"].contains($0) }) {
                throw failure("\(place): unknown key \"\(stray)\"")
            }
            guard let match = entry["match"] as? String, let target = entry["to"] as? String else {
                throw failure("\(place): `match` and `to` must both be given as text")
            }
            try LayoutChoice.check(target: target) { failure("\(place): \($0)") }
            let named = entry["quantizer"].map { "\($0)" }
            let quantizer = named.flatMap { QuantizerName(rawValue: $0) }
            if let named, quantizer == nil {
                throw failure("\(place): unknown quantizer \"\(named)\"; known are \(QuantizerName.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            do { return Rule(pattern: try ModulePattern(match), target: target, quantizer: quantizer) } catch {
                throw failure("\(place): \"\(match)\" is not a regular expression: \(error)")
            }
        }
    }

    /// The rules as YAML again, for the manifest.
    package var summary: [String] { rules.map { "\($0.pattern) -> \($0.target)" + ($0.quantizer.map { " by \($0.rawValue)" } ?? "") } }

    /// In double quotes, whatever ends lines or is no letter written out.
    private static func quoted(_ text: String) -> String {
        text.unicodeScalars.reduce(into: "\"") { result, scalar in
            switch scalar {
            case "\"", "\\": result += "\\\(scalar)"
            case " "..."~": result.unicodeScalars.append(scalar)
            default:
                let code = String(scalar.value, radix: 16)
                result += "\\U" + String(repeating: "0", count: 8 - code.count) + code
            }
        } + "\""
    }

    /// The rules as YAML, for ``init(yaml:path:)`` to read.
    package var yaml: String {
        "rules:\n"
            + rules.map { rule in
                "  - match: \(Self.quoted(rule.pattern.description))\n    to: \(rule.target)\n"
                    + (rule.quantizer.map { "    quantizer: \($0.rawValue)\n" } ?? "")
            }.joined()
    }
}
