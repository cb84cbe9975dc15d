import Foundation
import StrictJSON
import Tensors

/// A verdict as a file, in the form that the file's name asks for.
package enum ParityReport: String, Sendable, CaseIterable {
    /// For programs.
    case json
    /// JUnit XML, for CI systems that show test results.
    case xml
    /// One page with plots, for people; opens offline.
    case html
    /// A verification card to be published beside the checkpoint.
    case yaml

    /// Nil for any other ending.
    package init?(path: String) {
        guard let dot = path.lastIndex(of: ".") else { return nil }
        let ending = path[path.index(after: dot)...].lowercased()
        guard let form = Self(rawValue: ending == "yml" ? "yaml" : ending == "htm" ? "html" : ending) else { return nil }
        self = form
    }

    package func text(_ verdict: ParityVerdict, of subject: ParitySubject) throws -> String {
        switch self {
        case .json: JSONValue.object(verdict.json).text() + "\n"
        case .xml: JUnitReport.text(verdict)
        case .html: HTMLReport(verdict: verdict, subject: subject).text
        case .yaml: try VerificationCard(verdict: verdict, subject: subject).text
        }
    }
}

/// What a verdict is about: paths and the command, for reports that people keep.
package struct ParitySubject: Sendable {
    package var reference: String
    package var candidate: String
    package var command: String
    package var date: Date

    package init(reference: String, candidate: String, command: String, date: Date = Date()) {
        self.reference = reference
        self.candidate = candidate
        self.command = command
        self.date = date
    }
}

extension String {
    /// Text for XML 1.0 and HTML: the five special characters as entities, control characters as question marks.
    package var escaped: String {
        var result = ""
        for scalar in unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            case "'": result += "&#39;"
            case "\n", "\t": result.unicodeScalars.append(scalar)
            case let control where control.value < 0x20 || control.value == 0xFFFE || control.value == 0xFFFF: result += "?"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
