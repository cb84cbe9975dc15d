import StrictJSON

/// A verdict as a file: JSON for programs, JUnit XML for CI systems that show test results.
public enum ParityReport: String, Sendable, CaseIterable {
    case json
    case xml

    /// The form that a file name asks for; nil for any other ending.
    public init?(path: String) {
        guard let dot = path.lastIndex(of: "."), let form = Self(rawValue: path[path.index(after: dot)...].lowercased()) else { return nil }
        self = form
    }

    public func text(_ verdict: ParityVerdict) -> String {
        switch self {
        case .json: JSONValue.object(verdict.json).text() + "\n"
        case .xml: Self.junit(verdict)
        }
    }

    /// One test case for the weights and one for the forward pass; a bound that does not hold is a failure that names its figure.
    private static func junit(_ verdict: ParityVerdict) -> String {
        var cases = [(name: "weights", failures: verdict.weights.failures, output: verdict.weights.lines)]
        if verdict.forward != nil { cases.append(("forward pass", verdict.forwardFailures, verdict.forwardLines)) }
        let failed = cases.count { !$0.failures.isEmpty }
        var text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        text += "<testsuites tests=\"\(cases.count)\" failures=\"\(failed)\">\n"
        text += "  <testsuite name=\"recast verify\" tests=\"\(cases.count)\" failures=\"\(failed)\">\n"
        for item in cases {
            text += "    <testcase classname=\"recast.verify\" name=\"\(item.name)\">\n"
            for failure in item.failures { text += "      <failure message=\"\(escaped(failure))\"/>\n" }
            text += "      <system-out>\(escaped(item.output.joined(separator: "\n")))</system-out>\n    </testcase>\n"
        }
        return text + "  </testsuite>\n</testsuites>\n"
    }

    /// Text for XML 1.0: the five special characters as entities, control characters as question marks.
    package static func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            case "'": result += "&apos;"
            case "\n", "\t": result.unicodeScalars.append(scalar)
            case let control where control.value < 0x20 || control.value == 0xFFFE || control.value == 0xFFFF: result += "?"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
