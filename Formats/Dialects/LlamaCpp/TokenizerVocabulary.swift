import StrictJSON
import Tokenizers

/// The tokens of a `tokenizer.json` by their numbers, as llama.cpp's converter gets them through transformers.
struct TokenizerVocabulary {
    /// As many as the model has rows; numbers without a token are `[PADn]`.
    private(set) var texts: [String]
    /// 1 a normal token, 3 a control token, 4 one that the user defined, 5 unused.
    private(set) var types: [Int32]
    private(set) var notes: [String] = []
    /// Number of each added token.
    private(set) var added: [String: Int] = [:]

    /// More rows than any model has.
    private static let sizeLimit = 1 << 24

    /// - Parameters:
    ///   - settings: `tokenizer_config.json`, whose tokens join those of `tokenizer.json`.
    ///   - size: of the model's vocabulary.
    init(_ tokenizer: JSONValue, _ settings: JSONObject?, size: Int?) throws(DialectFailure) {
        let members = tokenizer["model"]?["vocab"]?.object?.members ?? []
        // By bytes: two texts of equal characters may be two tokens.
        var numbers: [[UInt8]: Int] = [:]
        numbers.reserveCapacity(members.count)
        var top = -1
        for (token, value) in members {
            guard let number = value.int, (0..<Self.sizeLimit).contains(number) else {
                throw DialectFailure(tensor: "tokenizer.json", reason: "the number of token \"\(token)\" is no token number")
            }
            numbers[Array(token.utf8)] = number
            top = max(top, number)
        }
        let additions = try Self.additions(tokenizer, settings)
        let places = Self.places(additions, numbers)
        top = max(top, places.max() ?? -1)
        let count = size ?? Set(numbers.values).union(places).count
        guard top < count, count <= Self.sizeLimit else {
            throw DialectFailure(tensor: "tokenizer.json", reason: "token \(top) lies beyond the \(count) that config.json's vocab_size counts")
        }

        texts = (0..<count).map { "[PAD\($0)]" }
        types = [Int32](repeating: 5, count: count)
        for (token, value) in members {
            guard let number = value.int, types[number] == 5 else { continue }
            texts[number] = token
            types[number] = 1
        }
        for (addition, number) in zip(additions, places) {
            guard types[number] == 5 || (types[number] == 1 && numbers[Array(addition.content.utf8)] == number) else {
                notes.append("the added token \"\(addition.content)\" gets number \(number), which \"\(texts[number])\" has, and is left out")
                continue
            }
            if let stated = addition.number, stated != number {
                notes.append(
                    "the added token \"\(addition.content)\" is number \(stated) in tokenizer.json, but the tokenizers library and llama.cpp's converter make it \(number)"
                )
            }
            added[addition.content] = number
            var text = addition.isNormalized ? addition.content : Self.decoded(addition.content)
            if addition.isSpecial || Self.looksSpecial(text) {
                types[number] = 3
            } else {
                text = text.replacing("\u{2581}", with: " ")
                types[number] = 4
            }
            texts[number] = text
        }
    }

    // MARK: Added tokens

    private struct Addition {
        var content: String
        /// As the file states it.
        var number: Int?
        var isSpecial: Bool
        var isNormalized: Bool
    }

    /// Those of `tokenizer.json` and those that transformers adds because `tokenizer_config.json` names them. Its list of added tokens decides of what
    /// make they are, and what has a name as the begin or the end is a control token.
    private static func additions(_ tokenizer: JSONValue, _ settings: JSONObject?) throws(DialectFailure) -> [Addition] {
        var additions: [Addition] = []
        var places: [[UInt8]: Int] = [:]
        func add(_ content: String, _ number: Int?, isSpecial: Bool?, isNormalized: Bool?) {
            guard !content.isEmpty else { return }
            if let place = places[Array(content.utf8)] {
                if let isSpecial { additions[place].isSpecial = isSpecial }
                if let isNormalized { additions[place].isNormalized = isNormalized }
            } else {
                places[Array(content.utf8)] = additions.count
                let special = isSpecial ?? true
                additions.append(Addition(content: content, number: number, isSpecial: special, isNormalized: isNormalized ?? !special))
            }
        }
        for token in tokenizer["added_tokens"]?.array ?? [] {
            guard let content = token["content"]?.string else {
                throw DialectFailure(tensor: "tokenizer.json", reason: "an added token has no content")
            }
            let special = token["special"]?.bool ?? false
            add(content, token["id"]?.int, isSpecial: special, isNormalized: token["normalized"]?.bool ?? !special)
        }
        let decoder = (settings?["added_tokens_decoder"]?.object?.members ?? []).compactMap { key, token in Int(key).map { ($0, token) } }
        for (number, token) in decoder.sorted(by: { $0.0 < $1.0 }) {
            guard let content = token["content"]?.string else { continue }
            let special = token["special"]?.bool ?? false
            add(content, number, isSpecial: special, isNormalized: token["normalized"]?.bool ?? !special)
        }
        for kind in SpecialTokens.kinds {
            let value = settings?["\(kind)_token"]
            if let content = value?.string ?? value?["content"]?.string { add(content, nil, isSpecial: true, isNormalized: nil) }
        }
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            for token in settings?[key]?.array ?? settings?[key]?.object?.members.map(\.value) ?? [] {
                if let content = token.string ?? token["content"]?.string { add(content, nil, isSpecial: nil, isNormalized: nil) }
            }
        }
        return additions
    }

    /// The numbers that the tokenizers library gives, whatever the file states: the vocabulary's, or the next (src/tokenizer/added_vocabulary.rs).
    private static func places(_ additions: [Addition], _ numbers: [[UInt8]: Int]) -> [Int] {
        var places: [Int] = []
        var last: Int?
        for addition in additions {
            let next = last.map { $0 >= numbers.count || numbers.isEmpty ? $0 + 1 : numbers.count } ?? numbers.count
            let place = numbers[Array(addition.content.utf8)] ?? next
            places.append(place)
            last = max(last ?? place, place)
        }
        return places
    }

    /// What decoding makes of an added token: a text wholly of the byte alphabet is taken for bytes, also where it was meant as it stands.
    static func decoded(_ content: String) -> String {
        if content.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) { return content }
        return ByteAlphabet.bytes(content).map { String(decoding: $0, as: UTF8.self) } ?? content
    }

    /// Some models do not mark their control tokens (conversion/base.py: `does_token_look_special`).
    private static func looksSpecial(_ text: String) -> Bool {
        ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(text) || (text.hasPrefix("<|") && text.hasSuffix("|>"))
            || (text.hasPrefix("<\u{FF5C}") && text.hasSuffix("\u{FF5C}>")) || (text.hasPrefix("<unused") && text.hasSuffix(">"))
    }
}

/// Which tokens begin, end, pad and so on, and whether the first two are added to texts (gguf-py/gguf/vocab.py: `SpecialVocab`).
struct SpecialTokens {
    /// In the order in which they are looked for.
    static let kinds = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
    /// Their names in GGUF's keys, one of which is misspelled there; `cls` has no key.
    static let keys = [
        "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask", "eot": "eot", "eom": "eom",
    ]

    private(set) var numbers: [(kind: String, number: UInt32)] = []
    private(set) var adds: [(kind: String, adds: Bool)] = []
    private var kinds = SpecialTokens.kinds
    /// `tokenizer_config.json`'s tokens as they stand there: names, or objects with a content.
    private var tokens: [String: JSONValue] = [:]

    init(_ tokenizer: JSONValue, _ settings: JSONObject?) {
        for kind in kinds { tokens[kind] = settings?["\(kind)_token"] }
        if settings != nil {
            if !isNamed("bos"), isNamed("cls") { tokens["bos"] = tokens["cls"] }
            if !isNamed("eos"), isNamed("sep") { tokens["eos"] = tokens["sep"] }
        }
        if let processor = tokenizer["post_processor"], processor != .null {
            for step in processor["processors"]?.array ?? [processor] { read(step, hasSettings: settings != nil) }
        }
        guard let settings else { return }
        let added = tokenizer["added_tokens"]?.array ?? []
        for kind in kinds {
            if let value = settings["add_\(kind)_token"]?.bool, !adds.contains(where: { $0.kind == kind }) { adds.append((kind, value)) }
            guard let content = tokens[kind]?.string ?? tokens[kind]?["content"]?.string else { continue }
            let number = added.first { $0["content"]?.string == content }?["id"]?.int
            if let number = number.flatMap(UInt32.init(exactly:)) { set(kind, number) }
        }
    }

    func number(_ kind: String) -> Int? { numbers.first { $0.kind == kind }.map { Int($0.number) } }

    private mutating func set(_ kind: String, _ number: UInt32) {
        if !numbers.contains(where: { $0.kind == kind }) { numbers.append((kind, number)) }
    }

    private mutating func set(_ kind: String, adds value: Bool) {
        if let place = adds.firstIndex(where: { $0.kind == kind }) { adds[place].adds = value } else { adds.append((kind, value)) }
    }

    private func isNamed(_ kind: String) -> Bool {
        switch tokens[kind] {
        case nil, .null?, .string("")?: false
        default: true
        }
    }

    /// Numbers of `config.json` for what the tokenizer does not name.
    mutating func addNumbers(_ config: JSONValue) throws(DialectFailure) {
        for kind in kinds {
            let field = "\(kind)_token_id"
            var value = config[field]
            if value == nil || value == .null { value = config["text_config"]?[field] }
            guard let number = value?.int else { continue }
            guard let exact = UInt32(exactly: number) else {
                throw DialectFailure(tensor: "config.json", reason: "\(field) is \(number), which is no token number")
            }
            set(kind, exact)
        }
    }

    /// Tokens that the converter's class for a model names.
    mutating func add(_ rules: [(kind: String, token: String)], _ vocabulary: TokenizerVocabulary) throws(DialectFailure) {
        for (kind, token) in rules {
            guard let number = vocabulary.added[token].flatMap(UInt32.init(exactly:)) else {
                throw DialectFailure(
                    tensor: "tokenizer.json", reason: "it has no added token \"\(token)\", which this architecture needs in llama.cpp")
            }
            set(kind, number)
        }
    }

    // MARK: What is put around a text

    private mutating func read(_ step: JSONValue, hasSettings: Bool) {
        switch step["type"]?.string {
        case "ByteLevel":
            for kind in ["bos", "eos"] where !adds.contains(where: { $0.kind == kind }) { set(kind, adds: false) }
        case "RobertaProcessing":
            for kind in ["bos", "eos", "sep"] { set(kind, adds: true) }
            if hasSettings, !isNamed("cls") { tokens["cls"] = step["cls"]?.array?.first ?? tokens["bos"] }
            if hasSettings, !isNamed("sep") { tokens["sep"] = step["sep"]?.array?.first ?? tokens["eos"] }
        case "TemplateProcessing": readTemplate(step, hasSettings: hasSettings)
        default: break
        }
    }

    private mutating func readTemplate(_ step: JSONValue, hasSettings: Bool) {
        func name(_ piece: JSONValue?) -> JSONValue? { piece?["SpecialToken"]?["id"]?.string.map { .string($0) } }
        let single = step["single"]?.array ?? []
        var first: JSONValue?, last: JSONValue?
        // A token that is an object with a content equals no name, as in the converter.
        if single.count > 1 {
            first = name(single.first)
            last = name(single.last)
        }
        if let first {
            if !hasSettings {
                tokens["bos"] = first
            } else if first != tokens["bos"], first != tokens["cls"] {
                if !isNamed("bos") { tokens["bos"] = first }
                if !isNamed("cls") { tokens["cls"] = first }
            }
            set("bos", adds: first == tokens["bos"] || first == tokens["cls"])
        }
        if let last {
            if hasSettings, last != tokens["eos"] {
                // The name that the settings have for the end becomes that of a turn's end.
                if let kind = ["eot", "eom"].first(where: { !kinds.contains($0) }) {
                    kinds.append(kind)
                    tokens[kind] = tokens["eos"]
                }
            }
            tokens["eos"] = last
            set("eos", adds: true)
        }
        var pair = (step["pair"]?.array ?? [])[...]
        if first != nil, name(pair.first) == first { pair = pair.dropFirst() }
        if last != nil, name(pair.last) == last { pair = pair.dropLast() }
        guard pair.count > 2, pair.first?["Sequence"]?["id"]?.string == "A", pair.last?["Sequence"]?["id"]?.string == "B" else { return }
        let between = pair.dropFirst().dropLast()
        func separates(_ piece: JSONValue?) -> Bool { name(piece).map { $0 == tokens["sep"] || $0 == tokens["eos"] } ?? false }
        let separated = (separates(between.first) && last == nil) || (between.count == 2 && separates(between.last))
        set("sep", adds: separated)
        if separated, hasSettings, !isNamed("sep") { tokens["sep"] = tokens["eos"] }
    }
}
