/// Cuts a text into the pieces that byte-pair encoding works on, by regular expressions one after another: what an expression
/// matches becomes a piece of its own, and so does what lies between matches (`Split` with the behaviour `Isolated`).
struct PreTokenizer: Sendable {
    /// A compiled regular expression is immutable; it only lacks the Sendable mark.
    private struct Expression: @unchecked Sendable {
        let regex: Regex<AnyRegexOutput>
    }
    private var expressions: [Expression] = []

    /// GPT-2's expression, which `ByteLevel` uses with `use_regex` (huggingface/tokenizers:src/pre_tokenizers/byte_level.rs).
    static let gpt2 = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#

    mutating func append(_ pattern: String) throws {
        // Scalars, not grapheme clusters: a letter and its combining mark are two, and so are CR and LF.
        expressions.append(Expression(regex: try Regex(pattern).matchingSemantics(.unicodeScalar)))
    }

    func pieces(_ text: Substring) -> [Substring] {
        var pieces = [text]
        for expression in expressions { pieces = pieces.flatMap { Self.isolate(expression.regex, in: $0) } }
        return pieces
    }

    private static func isolate(_ regex: Regex<AnyRegexOutput>, in text: Substring) -> [Substring] {
        var pieces: [Substring] = []
        var start = text.startIndex
        for match in text.matches(of: regex) where !match.range.isEmpty {
            if start < match.range.lowerBound { pieces.append(text[start..<match.range.lowerBound]) }
            pieces.append(text[match.range])
            start = match.range.upperBound
        }
        if start < text.endIndex { pieces.append(text[start...]) }
        return pieces
    }
}
