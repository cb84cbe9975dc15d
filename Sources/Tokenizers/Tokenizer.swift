import StrictJSON
import Tensors

/// Turns text into token numbers as `tokenizer.json` of a checkpoint says: byte-level BPE, the kind that DeepSeek, Kimi (in
/// converted form), Llama 3 and Qwen ship. Anything else in the file is refused by name.
///
/// Source: huggingface/tokenizers, whose result for the text alone (`add_special_tokens=False`) it equals.
package struct Tokenizer: Sendable {
    private var encoder: BytePairEncoder
    private var preTokenizer = PreTokenizer()
    /// Tokens that are found in the text before anything else, longest first.
    private var added: [(bytes: [UInt8], token: Int)] = []
    private var addedStarts = Set<UInt8>()

    package static let sizeLimit = 256 << 20

    package init(reading path: String) throws { try self.init(bytes: FileTree.read(path, limit: Self.sizeLimit), path: path) }

    /// - Parameter path: where the text comes from, for messages.
    package init(bytes: [UInt8], path: String) throws {
        let json: JSONValue
        do { json = try JSONValue(parsing: bytes) } catch {
            throw TokenizerFailure.malformed(path: path, reason: "the JSON text is malformed: \(error)")
        }
        try self.init(json, path: path)
    }

    package init(_ json: JSONValue, path: String) throws {
        func malformed(_ reason: String) -> TokenizerFailure { .malformed(path: path, reason: reason) }
        guard let model = json["model"], let vocabulary = model["vocab"]?.object, let merges = model["merges"]?.array else {
            throw malformed("there is no model with `vocab` and `merges`")
        }
        if let type = model["type"]?.string, type != "BPE" { throw TokenizerFailure.unsupported(path: path, part: "the model \(type)") }
        for option in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            if let value = model[option], value != .null, value != .string("") { throw TokenizerFailure.unsupported(path: path, part: "`\(option)`") }
        }
        if model["byte_fallback"]?.bool == true { throw TokenizerFailure.unsupported(path: path, part: "`byte_fallback`") }

        // Tokens are written in an alphabet of one printable character a byte.
        var numbers: [[UInt8]: Int32] = [:]
        numbers.reserveCapacity(vocabulary.members.count)
        for (token, value) in vocabulary.members {
            guard let number = value.int, number >= 0, number < Int(Int32.max) else {
                throw malformed("the number of token \"\(token)\" is no token number")
            }
            // A token outside the alphabet can only be an added one.
            guard let bytes = ByteAlphabet.bytes(token) else { continue }
            numbers[bytes] = Int32(number)
        }
        var table: [BytePairEncoder.Pair: (rank: Int32, token: Int32)] = [:]
        table.reserveCapacity(merges.count)
        for (rank, merge) in merges.enumerated() {
            let sides =
                merge.string.map { $0.split(separator: " ", omittingEmptySubsequences: false).map(String.init) } ?? merge.array?.compactMap(\.string)
                ?? []
            guard sides.count == 2, let left = ByteAlphabet.bytes(sides[0]), let right = ByteAlphabet.bytes(sides[1]), let a = numbers[left],
                let b = numbers[right], let joined = numbers[left + right]
            else { throw malformed("merge \(rank) is not of two tokens whose join is a token") }
            let pair = BytePairEncoder.Pair(left: a, right: b)
            if table[pair] == nil { table[pair] = (Int32(rank), joined) }
        }
        encoder = BytePairEncoder(
            byteTokens: (0...255).map { numbers[[UInt8($0)]] ?? -1 }, merges: table,
            wholePieces: model["ignore_merges"]?.bool == true ? numbers : [:])

        try readNormalizer(json["normalizer"], path)
        try readPreTokenizer(json["pre_tokenizer"], path)
        try readAddedTokens(json["added_tokens"]?.array ?? [], path)
    }

    private func readNormalizer(_ value: JSONValue?, _ path: String) throws {
        guard let value, value != .null else { return }
        if value["type"]?.string == "Sequence", value["normalizers"]?.array?.isEmpty == true { return }
        throw TokenizerFailure.unsupported(path: path, part: "the normalizer \(value["type"]?.string ?? "without a type")")
    }

    private mutating func readPreTokenizer(_ value: JSONValue?, _ path: String) throws {
        guard let value, value != .null, let type = value["type"]?.string else {
            throw TokenizerFailure.unsupported(path: path, part: "a missing pre-tokenizer")
        }
        switch type {
        case "Sequence": for step in value["pretokenizers"]?.array ?? [] { try readPreTokenizer(step, path) }
        case "Split":
            guard value["behavior"]?.string == "Isolated", value["invert"]?.bool != true, let pattern = value["pattern"]?["Regex"]?.string else {
                throw TokenizerFailure.unsupported(path: path, part: "a Split that is not an isolating regular expression")
            }
            do { try preTokenizer.append(pattern) } catch {
                throw TokenizerFailure.malformed(path: path, reason: "\"\(pattern)\" is not a regular expression: \(error)")
            }
        case "ByteLevel":
            if value["add_prefix_space"]?.bool == true { throw TokenizerFailure.unsupported(path: path, part: "`add_prefix_space`") }
            if value["use_regex"]?.bool ?? true { try preTokenizer.append(PreTokenizer.gpt2) }
        default: throw TokenizerFailure.unsupported(path: path, part: "the pre-tokenizer \(type)")
        }
    }

    private mutating func readAddedTokens(_ tokens: [JSONValue], _ path: String) throws {
        for token in tokens {
            guard let content = token["content"]?.string, let number = token["id"]?.int, number >= 0, !content.isEmpty else {
                throw TokenizerFailure.malformed(path: path, reason: "an added token has no content or no number")
            }
            if let flag = ["single_word", "lstrip", "rstrip"].first(where: { token[$0]?.bool == true }) {
                throw TokenizerFailure.unsupported(path: path, part: "the added token \"\(content)\" with `\(flag)`")
            }
            added.append((Array(content.utf8), number))
        }
        added.sort { ($1.bytes.count, $0.token) < ($0.bytes.count, $1.token) }
        addedStarts = Set(added.map { $0.bytes[0] })
    }

    // MARK: Encoding

    /// The tokens of a text, without any that mark its beginning or end.
    package func encode(_ text: String) -> [Int] {
        var tokens: [Int] = []
        var known: [Substring: [Int]] = [:]
        let bytes = text.utf8
        var start = bytes.startIndex
        var place = start
        while place < bytes.endIndex {
            if addedStarts.contains(bytes[place]), let token = added.first(where: { bytes[place...].starts(with: $0.bytes) }) {
                encode(text[start..<place], into: &tokens, &known)
                tokens.append(token.token)
                place = bytes.index(place, offsetBy: token.bytes.count)
                start = place
            } else {
                place = bytes.index(after: place)
            }
        }
        encode(text[start...], into: &tokens, &known)
        return tokens
    }

    private func encode(_ text: Substring, into tokens: inout [Int], _ known: inout [Substring: [Int]]) {
        guard !text.isEmpty else { return }
        for piece in preTokenizer.pieces(text) {
            // Short pieces come again and again. Equal strings may differ in bytes, so only ASCII is looked up.
            let isShort = piece.utf8.count <= 32 && piece.utf8.allSatisfy { $0 < 0x80 }
            if isShort, let found = known[piece] {
                tokens += found
                continue
            }
            let before = tokens.count
            encoder.encode(Array(piece.utf8), into: &tokens)
            if isShort { known[piece] = Array(tokens[before...]) }
        }
    }
}
