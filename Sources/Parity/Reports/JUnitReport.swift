/// JUnit XML: one test case a gate; a bound that does not hold is a failure that names its figure.
enum JUnitReport {
    static func text(_ verdict: ParityVerdict) -> String {
        let failed = verdict.gates.count { !$0.holds }
        var text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        text += "<testsuites tests=\"\(verdict.gates.count)\" failures=\"\(failed)\">\n"
        text += "  <testsuite name=\"recast verify\" tests=\"\(verdict.gates.count)\" failures=\"\(failed)\">\n"
        for gate in verdict.gates {
            text += "    <testcase classname=\"recast.verify.\(gate.subject.rawValue.escaped)\" name=\"\(gate.requirement.escaped)\">\n"
            if let failure = gate.failure { text += "      <failure message=\"\(failure.escaped)\"/>\n" }
            text += "      <system-out>found: \(gate.found.escaped)</system-out>\n    </testcase>\n"
        }
        return text + "    <system-out>\(verdict.text.escaped)</system-out>\n  </testsuite>\n</testsuites>\n"
    }
}

/// Workflow commands of GitHub Actions: each gate that does not hold becomes an annotation of the run
/// (docs.github.com: Workflow commands for GitHub Actions).
package enum GitHubAnnotations {
    /// Whether the environment is a GitHub-style runner.
    package static func isWanted(_ environment: [String: String]) -> Bool { environment["GITHUB_ACTIONS"] == "true" }

    package static func text(_ verdict: ParityVerdict, of subject: ParitySubject) -> String {
        let lines = verdict.gates.compactMap { gate in
            gate.failure.map { "::error title=\(property("parity: \(gate.requirement)"))::\(message("\(subject.candidate): \($0)"))" }
        }
        return lines.isEmpty ? "::notice title=parity::\(message(verdict.claim))" : lines.joined(separator: "\n")
    }

    private static func message(_ text: String) -> String {
        text.replacing("%", with: "%25").replacing("\r", with: "%0D").replacing("\n", with: "%0A")
    }

    private static func property(_ text: String) -> String { message(text).replacing(":", with: "%3A").replacing(",", with: "%2C") }
}
