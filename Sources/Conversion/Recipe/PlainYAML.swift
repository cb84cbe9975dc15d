import Foundation
import Yams

/// The YAML that recipes and policies are written in: mappings, lists and plain values. What else the language has (tags, dates, merges,
/// anchors, keys that are no words) is refused: no recipe needs it, and a few lines of it can stand for more text than memory holds.
package enum PlainYAML {
    package struct Refusal: Error, CustomStringConvertible {
        package var description: String
    }

    /// Values that a text may unfold to.
    private static let limit = 100_000

    /// - Returns: `[String: Any]`, `[Any]`, `String`, `Bool`, `Int`, `Double` or `NSNull`; nil for an empty text.
    package static func load(_ text: String) throws -> Any? {
        guard !hasAnchor(text) else { throw Refusal(description: "anchors (&name) and aliases are not read here; write the text out") }
        guard let root = try Yams.compose(yaml: text, .basic) else { return nil }
        var count = 0
        return try value(root, &count)
    }

    private static func value(_ node: Node, _ count: inout Int) throws -> Any {
        count += 1
        guard count <= limit, node.anchor == nil else { throw Refusal(description: "anchors and aliases are not read here; write the text out") }
        switch node {
        case .scalar(let scalar):
            guard node.tag == Tag(.str) else { throw Refusal(description: "tags (\(node.tag)) are not read here") }
            return scalar.style == .plain || scalar.style == .any ? plain(scalar.string) : scalar.string
        case .sequence(let sequence):
            guard node.tag == Tag(.seq) else { throw Refusal(description: "tags (\(node.tag)) are not read here") }
            return try sequence.map { try value($0, &count) }
        case .mapping(let mapping):
            guard node.tag == Tag(.map) else { throw Refusal(description: "tags (\(node.tag)) are not read here") }
            var result: [String: Any] = [:]
            for (key, entry) in mapping {
                guard case .scalar(let word) = key, key.tag == Tag(.str), key.anchor == nil else {
                    throw Refusal(description: "a key is not a word")
                }
                guard result.updateValue(try value(entry, &count), forKey: word.string) == nil else {
                    throw Refusal(description: "\"\(word.string)\" stands there twice")
                }
            }
            return result
        case .alias: throw Refusal(description: "aliases are not read here; write the text out")
        }
    }

    /// What a word without quotes stands for, by YAML's core schema and the yes and no of older texts.
    private static func plain(_ word: String) -> Any {
        switch word {
        case "", "~", "null", "Null", "NULL": return NSNull()
        case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON": return true
        case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF": return false
        case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF": return Double.infinity
        case "-.inf", "-.Inf", "-.INF": return -Double.infinity
        case ".nan", ".NaN", ".NAN": return Double.nan
        default:
            guard word.utf8.allSatisfy({ (0x30...0x39).contains($0) || [0x2B, 0x2D, 0x2E, 0x45, 0x65].contains($0) }) else { return word }
            if let number = Int(word) { return number }
            if let number = Double(word) { return number }
            return word
        }
    }

    /// Whether an anchor is set outside of quotes and comments: before the text is unfolded, which is what bombs wait for.
    private static func hasAnchor(_ text: String) -> Bool {
        var quote: Character?
        var before: Character = "\n"
        var isComment = false
        for character in text {
            if character == "\n" { isComment = false }
            if let open = quote {
                if character == open { quote = nil }
            } else if isComment {
            } else if character == "#", before.isWhitespace {
                isComment = true
            } else if character == "\"" || character == "'" {
                if !(before.isLetter || before.isNumber) { quote = character }
            } else if character == "&", before.isWhitespace || "[{,:-".contains(before) {
                return true
            }
            before = character
        }
        return false
    }
}
