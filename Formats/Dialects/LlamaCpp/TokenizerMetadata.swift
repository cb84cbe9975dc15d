import StrictJSON

/// The keys that llama.cpp's converter makes of a byte-level BPE tokenizer, in its order (llama.cpp:conversion/base.py `_set_vocab_gpt2`,
/// gguf-py/gguf/vocab.py `SpecialVocab`).
package struct TokenizerMetadata: Sendable {
    package private(set) var entries: [GGUFEntry] = []
    /// What the user should know, a sentence each.
    package private(set) var notes: [String] = []
    /// What the user must know before relying on the file.
    package private(set) var warnings: [String] = []

    /// - Parameters:
    ///   - tokenizer: `tokenizer.json`.
    ///   - config: `config.json`.
    ///   - chatTemplate: `chat_template.jinja`, which stands in where `tokenizer_config.json` has no template.
    ///   - additionalTemplates: those of `additional_chat_templates`, by their names.
    ///   - preTokenizer: llama.cpp's name of the way in which text is cut; found by a hash if nil.
    ///   - fallback: the name that is taken, and said, where the hash is none that llama.cpp knows.
    package init(
        tokenizer: JSONValue, tokenizerConfig: JSONValue?, config: JSONValue, chatTemplate: String?,
        additionalTemplates: [(name: String, template: String)] = [], preTokenizer: String?,
        fallback: String? = nil
    ) throws(DialectFailure) {
        try Self.check(tokenizer)
        let settings = tokenizerConfig?.object.flatMap { $0.members.isEmpty ? nil : $0 }
        let vocabulary = try TokenizerVocabulary(tokenizer, settings, size: config["vocab_size"]?.int ?? config["text_config"]?["vocab_size"]?.int)
        notes = vocabulary.notes
        let family = SpecialTokenRules(config)
        var special = SpecialTokens(tokenizer, settings)
        try special.addNumbers(config)
        try special.add(family.tokens, vocabulary)

        var name = ""
        if let preTokenizer {
            name = try PreTokenizerName.checked(preTokenizer)
        } else {
            do throws(DialectFailure) {
                name = try PreTokenizerName.found(
                    for: tokenizer, special, addsBeginning: family.needsBeginning ? true : settings?["add_bos_token"]?.bool,
                    addsEnd: settings?["add_eos_token"]?.bool)
            } catch {
                guard let fallback else { throw error }
                name = fallback
                warnings.append(
                    "llama.cpp has no name for the way in which tokenizer.json cuts text; \"\(fallback)\", the usual one of the architecture, is a guess: give --pre-tokenizer if it is another"
                )
            }
        }
        let merges = try Self.merges(tokenizer)
        guard !merges.isEmpty || name == "kimi-k2" else {
            throw DialectFailure(tensor: "tokenizer.json", reason: "it has no merges, without which llama.cpp loads no byte-pair encoding")
        }

        if family.isLlama, let adds = settings?["add_prefix_space"]?.bool { add("ggml.add_space_prefix", .bool(adds)) }
        add("ggml.model", .string("gpt2"))
        add("ggml.pre", .string(name))
        add("ggml.tokens", .array(.strings(vocabulary.texts)))
        add("ggml.token_type", .array(.i32(vocabulary.types)))
        if !merges.isEmpty { add("ggml.merges", .array(.strings(merges))) }
        for (kind, number) in special.numbers {
            if let key = SpecialTokens.keys[kind] { add("ggml.\(key)_token_id", .u32(number)) }
        }
        for (kind, adds) in special.adds where ["bos", "eos", "sep"].contains(kind) { add("ggml.add_\(kind)_token", .bool(adds)) }
        if settings != nil { addTemplates(settings?["chat_template"] ?? Self.template(chatTemplate, additionalTemplates)) }
        addNormalizer(tokenizer["normalizer"])
        if family.isLlama, vocabulary.texts.count == 49152 {
            // Granite's small models, which say otherwise.
            let key = "tokenizer.ggml.add_bos_token"
            if let place = entries.firstIndex(where: { $0.key == key }) {
                entries[place].value = .bool(false)
            } else {
                entries.append(GGUFEntry(key, .bool(false)))
            }
        }
    }

    private mutating func add(_ key: String, _ value: GGUFValue) { entries.append(GGUFEntry("tokenizer." + key, value)) }

    // MARK: Kinds

    /// Byte-level BPE is what llama.cpp calls gpt2; other kinds have keys of their own.
    private static func check(_ tokenizer: JSONValue) throws(DialectFailure) {
        func refuse(_ kind: String) -> DialectFailure {
            DialectFailure(tensor: "tokenizer.json", reason: "\(kind) is not written for llama.cpp here, only byte-level byte-pair encoding is")
        }
        guard let model = tokenizer["model"], model["vocab"]?.object != nil || model["vocab"]?.array != nil else {
            throw DialectFailure(tensor: "tokenizer.json", reason: "there is no model with a vocabulary")
        }
        if let type = model["type"]?.string, type != "BPE" { throw refuse("a tokenizer of the kind \(type)") }
        guard model["vocab"]?.object != nil else { throw refuse("a tokenizer of the kind Unigram") }
        if model["byte_fallback"]?.bool == true { throw refuse("byte-pair encoding of characters with bytes to fall back on (SentencePiece's)") }
        guard let pre = tokenizer["pre_tokenizer"], (pre["pretokenizers"]?.array ?? [pre]).contains(where: { $0["type"]?.string == "ByteLevel" })
        else {
            throw refuse("byte-pair encoding without a byte-level pre-tokenizer (SentencePiece's)")
        }
    }

    /// "a b" for each pair; a space within a part is written as its stand-in.
    private static func merges(_ tokenizer: JSONValue) throws(DialectFailure) -> [String] {
        var texts: [String] = []
        for (place, merge) in (tokenizer["model"]?["merges"]?.array ?? []).enumerated() {
            if let text = merge.string {
                texts.append(text)
            } else if let pair = merge.array?.compactMap(\.string), pair.count == 2 {
                texts.append(pair.map { $0.replacing(" ", with: "\u{120}") }.joined(separator: " "))
            } else {
                throw DialectFailure(tensor: "tokenizer.json", reason: "merge \(place) is no pair")
            }
        }
        return texts
    }

    // MARK: Templates

    private static func template(_ text: String?, _ others: [(name: String, template: String)]) -> JSONValue? {
        guard let text else { return nil }
        guard !others.isEmpty else { return .string(text) }
        return .array(
            ([("default", text)] + others).map { .object(["name": .string($0.0), "template": .string($0.1)]) })
    }

    /// The names' list has the order of the templates; the converter's has none that lasts.
    private mutating func addTemplates(_ value: JSONValue?) {
        var usual = value?.string
        var names: [String] = []
        for choice in value?.array ?? [] {
            let letters = (choice["name"]?.string ?? "").unicodeScalars.map { scalar -> Character in
                scalar.isASCII && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar)) ? Character(scalar) : "_"
            }
            let name = String(letters)
            guard !name.isEmpty, let template = choice["template"]?.string else { continue }
            if name == "default" {
                usual = template
            } else {
                if !names.contains(name) { names.append(name) }
                if !template.isEmpty { add("chat_template.\(name)", .string(template)) }
            }
        }
        if !names.isEmpty { add("chat_templates", .array(.strings(names))) }
        if let usual, !usual.isEmpty { add("chat_template", .string(usual)) }
    }

    private mutating func addNormalizer(_ value: JSONValue?) {
        var lowers: Bool?, strips: Bool?
        func read(_ step: JSONValue) {
            switch step["type"]?.string {
            case "Lowercase": lowers = true
            case "StripAccents": strips = true
            case "BertNormalizer":
                lowers = step["lowercase"]?.bool ?? lowers
                strips = step["strip_accents"]?.bool ?? strips
            case "Sequence": (step["normalizers"]?.array ?? []).forEach(read)
            default: break
            }
        }
        value.map(read)
        if let lowers { add("ggml.normalizer.lowercase", .bool(lowers)) }
        if let strips { add("ggml.normalizer.strip_accents", .bool(strips)) }
    }
}

/// What the converter's classes of some models do besides.
struct SpecialTokenRules {
    /// Kinds and the tokens that they are, unless the tokenizer names others.
    let tokens: [(kind: String, token: String)]
    let isLlama: Bool
    /// DeepSeek-V3.2's class refuses a tokenizer that adds no begin token; the sequel is that of one that does.
    let needsBeginning: Bool

    /// conversion/base.py: `_set_vocab_glm`.
    static let glm = [("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")]

    init(_ config: JSONValue) {
        let name = config["architectures"]?.array?.first?.string ?? ""
        switch name {
        case "Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM": tokens = Self.glm
        case "Glm4ForCausalLM", "Glm4vForConditionalGeneration":
            tokens = [("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("bos", "<|endoftext|>")]
        default: tokens = []
        }
        isLlama = ["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"].contains(name)
        needsBeginning = name == "DeepseekV32ForCausalLM"
    }
}
