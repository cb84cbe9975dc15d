import Yams

/// YAML without anchors: a few lines of them can stand for more text than memory holds, and no recipe needs one.
public enum PlainYAML {
    public struct Anchored: Error, CustomStringConvertible {
        public var description: String { "anchors (&name) and aliases are not read here; write the text out" }
    }

    public static func load(_ text: String) throws -> Any? {
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
                throw Anchored()
            }
            before = character
        }
        return try Yams.load(yaml: text)
    }
}
