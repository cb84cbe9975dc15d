import Foundation
import Recast
import TestSupport
import Testing

/// A tokenizer as keys of GGUF against llama.cpp's converter, and back (Tests/Scripts/gguf_tokenizer_interop.py).
@Suite struct TokenizerMetadataTests {
    static let trained = Fixtures.path("tokenizer")

    static func json(_ path: String) throws -> JSONValue { try JSONValue(parsing: FileTree.read(path, limit: 1 << 28)) }

    /// The trained tokenizer after a change.
    static func tokenizer(_ change: (inout JSONObject) throws -> Void = { _ in }) throws -> JSONValue {
        var object = try #require(try json(trained + "/tokenizer.json").object)
        try change(&object)
        return .object(object)
    }

    static func model(_ object: inout JSONObject, _ change: (inout JSONObject) -> Void) {
        var model = object["model"]?.object ?? [:]
        change(&model)
        object["model"] = .object(model)
    }

    static let config: JSONValue = .object(["vocab_size": .int(2010)])

    static func metadata(
        _ tokenizer: JSONValue, _ settings: JSONObject? = nil, config: JSONValue = config, template: String? = nil, others: [(String, String)] = [],
        as name: String? = "deepseek-v3"
    ) throws -> TokenizerMetadata {
        try TokenizerMetadata(
            tokenizer: tokenizer, tokenizerConfig: settings.map { .object($0) }, config: config, chatTemplate: template,
            additionalTemplates: others.map { (name: $0.0, template: $0.1) }, preTokenizer: name)
    }

    static func token(_ number: Int, _ content: String, isSpecial: Bool = false, isNormalized: Bool = false) -> JSONValue {
        .object(["id": .int(number), "content": .string(content), "special": .bool(isSpecial), "normalized": .bool(isNormalized)])
    }

    /// Types and values as the fixture and the interop script write them.
    static func described(_ entries: [GGUFEntry]) -> [JSONValue] {
        entries.map { entry in
            let (type, value): (JSONValue, JSONValue) =
                switch entry.value {
                case .string(let text): (.string("STRING"), .string(text))
                case .bool(let value): (.string("BOOL"), .bool(value))
                case .u32(let value): (.string("UINT32"), .int(Int(value)))
                case .array(.strings(let texts)): (.array([.string("ARRAY"), .string("STRING")]), .array(texts.map { .string($0) }))
                case .array(.numbers(5, let bytes)):
                    (
                        .array([.string("ARRAY"), .string("INT32")]),
                        .array((GGUFArray.numbers(code: 5, bytes: bytes).ints ?? []).map { .int($0) })
                    )
                default: (.null, .null)
                }
            return .array([.string(entry.key), type, value])
        }
    }

    // MARK: The way there

    @Test func theSmallModelsKeysAreTheConverters() throws {
        let golden = try #require(try JSONValue(parsing: Fixtures.bytes("golden/gguf-tokenizer.json"))["entries"]?.array)
        let metadata = try Self.metadata(
            Self.json(Fixtures.fp8Model + "/tokenizer.json"), Self.json(Fixtures.fp8Model + "/tokenizer_config.json").object,
            config: Self.json(Fixtures.fp8Model + "/config.json"))
        let keys = Self.described(metadata.entries)
        #expect(keys.map { $0.array?.first } == golden.map { $0.array?.first })
        for (key, expected) in zip(keys, golden) { #expect(key == expected) }
        // Its begin token's number, 256, is not the one that the tokenizers library gives it.
        #expect(metadata.notes.contains { $0.contains("is number 256 in tokenizer.json, but the tokenizers library") })
    }

    @Test(arguments: ["tiny-deepseek-v3-fp8", "tokenizer"])
    func theProbesTokensAreTheTokenizersLibrarys(_ folder: String) throws {
        let golden = try JSONValue(parsing: Fixtures.bytes("golden/gguf-tokenizer.json"))["probe"]?[folder]?.string
        let forms = try PreTokenizerName.forms(
            of: Self.json(Fixtures.path(folder) + "/tokenizer.json"), tokenizerConfig: nil, config: .object([:]))
        #expect(forms.map(PreTokenizerName.hash).contains(golden ?? ""))
    }

    @Test func anUnknownPreTokenizerIsAskedFor() throws {
        let failure = #expect(throws: DialectFailure.self) { try Self.metadata(Self.tokenizer(), as: nil) }
        let text = try #require(failure?.description)
        #expect(text.contains("Give --pre-tokenizer NAME; it cuts by the expressions of deepseek-v3"), "\(text)")
        let other = #expect(throws: DialectFailure.self) {
            try Self.metadata(Self.tokenizer { $0["normalizer"] = .object(["type": .string("NFKC")]) }, as: nil)
        }
        #expect(other?.description.contains("because the normalizer NFKC is not known here") == true)
    }

    @Test func composingAndSingleDigitsDoNotHideTheName() throws {
        // The library's tokens of the probe are those of the plain tokenizer: it is composed, and digits come in other words.
        let plain = try PreTokenizerName.forms(of: Self.tokenizer(), tokenizerConfig: nil, config: .object([:]))
        let same = try Self.tokenizer { object in
            object["normalizer"] = .object(["type": .string("NFC")])
            object["added_tokens"] = .array([.object(["id": .int(0), "content": .string("<x>"), "lstrip": .bool(true)])])
        }
        #expect(try PreTokenizerName.forms(of: same, tokenizerConfig: nil, config: .object([:])) == plain)
        let digits = try Self.tokenizer { object in
            var pre = object["pre_tokenizer"]?.object ?? [:]
            var steps = pre["pretokenizers"]?.array ?? []
            steps[0] = .object(["type": .string("Digits"), "individual_digits": .bool(true)])
            pre["pretokenizers"] = .array(steps)
            object["pre_tokenizer"] = .object(pre)
        }
        #expect(try PreTokenizerName.forms(of: digits, tokenizerConfig: nil, config: .object([:]))[0].count > plain[0].count)
    }

    @Test func tokensAfterTheVocabularyArePadding() throws {
        let entries = try Self.metadata(Self.tokenizer()).entries
        let texts = try #require(entries["tokenizer.ggml.tokens"]?.strings), types = try #require(entries["tokenizer.ggml.token_type"]?.ints)
        #expect(texts.count == 2010 && types.count == 2010)
        #expect(Array(texts.suffix(2)) == ["[PAD2008]", "[PAD2009]"] && Array(types.suffix(2)) == [5, 5])
        #expect(texts[2000] == "<|begin_of_text|>" && types[2000] == 3)
    }

    @Test func addedTokensHaveTheTypeThatTheyLookLike() throws {
        let changed = try Self.tokenizer {
            $0["added_tokens"] = .array([
                Self.token(2000, "<|a|>"), Self.token(2001, "plain"), Self.token(2002, "a\u{2581}b"), Self.token(2003, "\u{FC}\u{FC}"),
                Self.token(2004, "\u{FC}\u{FC}\u{FC}", isNormalized: true), Self.token(2005, "[S]", isSpecial: true),
            ])
        }
        let entries = try Self.metadata(changed).entries
        let texts = try #require(entries["tokenizer.ggml.tokens"]?.strings), types = try #require(entries["tokenizer.ggml.token_type"]?.ints)
        #expect(Array(texts[2000..<2006]) == ["<|a|>", "plain", "a b", "\u{FFFD}\u{FFFD}", "\u{FC}\u{FC}\u{FC}", "[S]"])
        #expect(Array(types[2000..<2006]) == [3, 4, 4, 4, 4, 3])
    }

    @Test func templatesOfSeveralNamesHaveKeysOfTheirOwn() throws {
        let entries = try Self.metadata(
            Self.tokenizer(), ["eos_token": .string("<|end_of_text|>")], template: "usual", others: [("tool use", "tools")]
        ).entries
        #expect(
            entries.suffix(3) == [
                GGUFEntry("tokenizer.chat_template.tool_use", .string("tools")),
                GGUFEntry("tokenizer.chat_templates", .array(.strings(["tool_use"]))), GGUFEntry("tokenizer.chat_template", .string("usual")),
            ])
    }

    @Test(arguments: [
        "WordPiece", "Unigram", "fallback", "SentencePiece", "small", "merges", "pair", "name", "rules", "number",
    ])
    func whatHasNoKeysIsRefusedByASentence(_ change: String) throws {
        var config = Self.config, name = "deepseek-v3", sentence = ""
        let changed = try Self.tokenizer { object in
            switch change {
            case "WordPiece":
                Self.model(&object) { $0["type"] = .string("WordPiece") }
                sentence = "a tokenizer of the kind WordPiece is not written for llama.cpp here"
            case "Unigram":
                Self.model(&object) { $0["vocab"] = .array([]) }
                sentence = "a tokenizer of the kind Unigram"
            case "fallback":
                Self.model(&object) { $0["byte_fallback"] = .bool(true) }
                sentence = "with bytes to fall back on"
            case "SentencePiece":
                object["pre_tokenizer"] = .object(["type": .string("Metaspace")])
                sentence = "without a byte-level pre-tokenizer"
            case "small":
                config = .object(["vocab_size": .int(2000)])
                sentence = "token 2001 lies beyond the 2000 that config.json's vocab_size counts"
            case "merges":
                Self.model(&object) { $0["merges"] = .array([]) }
                sentence = "it has no merges"
            case "pair":
                Self.model(&object) { $0["merges"] = .array([.int(3)]) }
                sentence = "merge 0 is no pair"
            case "name":
                name = "deepseek-v4"
                sentence = "llama.cpp knows no pre-tokenizer called deepseek-v4; near are deepseek-coder"
            case "number":
                config = .object(["vocab_size": .int(2010), "bos_token_id": .int(-1)])
                sentence = "bos_token_id is -1"
            default:
                config = .object(["vocab_size": .int(2010), "architectures": .array([.string("Glm4MoeForCausalLM")])])
                sentence = "it has no added token \"[gMASK]\""
            }
        }
        let failure = #expect(throws: DialectFailure.self) { try Self.metadata(changed, config: config, as: name) }
        #expect(failure?.description.contains(sentence) == true, "\(String(describing: failure))")
    }

    // MARK: And back

    /// Settings and what is put around a text, each with its own keys.
    static let variants: [(name: String, settings: JSONObject?, processor: String?, config: JSONObject)] = [
        ("nothing", nil, nil, [:]),
        (
            "bytes", ["bos_token": .string("<|begin_of_text|>"), "eos_token": .string("<|end_of_text|>"), "pad_token": .string("<|end_of_text|>")],
            bytes, [:]
        ),
        ("numbers", nil, nil, ["bos_token_id": .int(2000), "eos_token_id": .int(2001), "pad_token_id": .int(5)]),
        ("mixed", ["pad_token": .string("<|end_of_text|>")], nil, ["bos_token_id": .int(2000), "eos_token_id": .int(2001)]),
        ("begins", ["bos_token": .string("<|begin_of_text|>")], template(false, pair: true), [:]),
        ("begins, alone", ["bos_token": .string("<|begin_of_text|>")], template(false, pair: false), [:]),
        ("both", ["bos_token": .string("<|begin_of_text|>"), "eos_token": .string("<|end_of_text|>")], template(true, pair: false), [:]),
        ("flags", ["bos_token": .string("<|begin_of_text|>"), "add_bos_token": .bool(false)], nil, [:]),
        (
            "late flag", ["bos_token": .string("<|begin_of_text|>"), "add_bos_token": .bool(true), "add_eos_token": .bool(false)],
            template(false, pair: true), [:]
        ),
        ("turn", ["bos_token": .string("<|begin_of_text|>"), "eos_token": .string("<|turn|>")], template(true, pair: false), [:]),
        (
            "templates",
            [
                "chat_template": .array([
                    .object(["name": .string("default"), "template": .string("d")]), .object(["name": .string("rag"), "template": .string("r")]),
                ])
            ], nil, [:]
        ),
    ]
    static let bytes = #"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true}"#

    /// - Parameter pair: whether the begin token stands before the second text too.
    static func template(_ ends: Bool, pair: Bool) -> String {
        func special(_ token: String, _ type: Int) -> String { #"{"SpecialToken":{"id":"\#(token)","type_id":\#(type)}}"# }
        let first = special("<|begin_of_text|>", 0), last = ends ? "," + special("<|end_of_text|>", 0) : ""
        let a = #"{"Sequence":{"id":"A","type_id":0}}"#, b = #"{"Sequence":{"id":"B","type_id":1}}"#
        let between = pair ? "," + special("<|begin_of_text|>", 1) : ""
        return #"{"type":"Sequence","processors":[\#(pair ? bytes + "," : ""){"type":"TemplateProcessing","single":[\#(first),\#(a)\#(last)],"#
            + #""pair":[\#(first),\#(a)\#(between),\#(b)\#(last)],"special_tokens":{}}]}"#
    }

    @Test(arguments: variants.indices, ["deepseek-v3", "qwen2", "llama-bpe"])
    func aTokenizerComesBackToTheSameKeys(_ index: Int, _ name: String) throws {
        let variant = Self.variants[index]
        let tokenizer = try Self.tokenizer { object in
            object["post_processor"] = try variant.processor.map { try JSONValue(parsing: Array($0.utf8)) } ?? .null
            var added = object["added_tokens"]?.array ?? []
            added += [Self.token(2002, "<|turn|>"), Self.token(2003, " two  spaces"), Self.token(2004, "\u{FC}\u{FC}", isNormalized: true)]
            object["added_tokens"] = .array(added)
        }
        var config = variant.config
        config["vocab_size"] = .int(2010)
        let entries = try Self.metadata(tokenizer, variant.settings, config: .object(config), as: name).entries
        let back = TokenizerFiles(entries)
        #expect(back.notes == [], "\(variant.name)")
        try #require(back.files.map(\.name) == ["tokenizer.json", "tokenizer_config.json"])

        var again = back.configNumbers
        again["vocab_size"] = .int(2010)
        let second = try Self.metadata(
            JSONValue(parsing: back.files[0].bytes), JSONValue(parsing: back.files[1].bytes).object, config: .object(again), as: name
        ).entries
        #expect(second == entries, "\(variant.name)")
        // The text is cut as before, too.
        if name == "deepseek-v3" {
            let corpus = try #require(String(validating: Fixtures.bytes("tokenizer/corpus.txt"), as: UTF8.self))
            #expect(try Tokenizer(bytes: back.files[0].bytes, path: "t").encode(corpus) == Tokenizer(tokenizer, path: "t").encode(corpus))
        }
    }

    @Test func theSmallModelComesBack() throws {
        let entries = try Self.metadata(
            Self.json(Fixtures.fp8Model + "/tokenizer.json"), Self.json(Fixtures.fp8Model + "/tokenizer_config.json").object,
            config: Self.json(Fixtures.fp8Model + "/config.json")
        ).entries
        let back = TokenizerFiles(
            entries + [GGUFEntry("general.architecture", .string("deepseek2")), GGUFEntry("deepseek2.context_length", .u32(1024))])
        #expect(back.notes == [])
        let settings = try JSONValue(parsing: back.files[1].bytes)
        #expect(settings["chat_template"] == (try Self.json(Fixtures.fp8Model + "/tokenizer_config.json"))["chat_template"])
        #expect(settings["model_max_length"]?.int == 1024)
        // The begin token's number stands for padding, so that config.json has to name it.
        #expect(back.configNumbers["bos_token_id"]?.int == 256)
    }

    @Test(arguments: ["llama", "chatglm-bpe", "no tokens", "types", "twice", "merge", "none"])
    func whatHasNoWayBackLeavesANoteAndNoFiles(_ change: String) throws {
        var entries = try Self.metadata(Self.tokenizer()).entries
        func set(_ key: String, _ value: GGUFValue?) throws {
            let place = try #require(entries.firstIndex { $0.key == "tokenizer.ggml." + key })
            if let value { entries[place].value = value } else { entries.remove(at: place) }
        }
        var texts = entries["tokenizer.ggml.tokens"]?.strings ?? []
        switch change {
        case "llama": try set("model", .string("llama"))
        case "chatglm-bpe": try set("pre", .string(change))
        case "no tokens": try set("tokens", nil)
        case "types": try set("token_type", .array(.i32([1, 1])))
        case "twice":
            texts[1] = texts[0]
            try set("tokens", .array(.strings(texts)))
        case "merge": try set("merges", .array(.strings(["a b c"])))
        default: entries = []
        }
        let back = TokenizerFiles(entries)
        #expect(back.files.isEmpty && back.configNumbers.members.isEmpty)
        #expect(back.notes.count == 1 && back.notes[0].hasPrefix("no tokenizer.json is made: "))
    }

    // MARK: For the interop script

    static let folder = ProcessInfo.processInfo.environment["RECAST_TOKENIZERS"]

    /// Writes keys and files of every tokenizer in a folder: `keys.json`, `probe.json` and `back` in each.
    @Test(.enabled(if: folder != nil)) func tokenizersOfAFolder() throws {
        let root = try #require(Self.folder)
        for name in try FileManager.default.contentsOfDirectory(atPath: root).sorted() {
            let path = root + "/" + name
            func read(_ file: String) -> JSONValue? { try? Self.json(path + "/" + file) }
            func text(_ file: String) -> String? { try? String(contentsOfFile: path + "/" + file, encoding: .utf8) }
            func write(_ value: JSONValue, _ file: String) throws {
                try value.text(pretty: false).write(toFile: path + "/" + file, atomically: true, encoding: .utf8)
            }
            let tokenizer = try #require(read("tokenizer.json")), config = try #require(read("config.json"))
            do {
                let forms = try PreTokenizerName.forms(of: tokenizer, tokenizerConfig: read("tokenizer_config.json"), config: config)
                try write(.array(forms.map { .string(PreTokenizerName.hash($0)) }), "probe.json")
                let metadata = try Self.metadata(
                    tokenizer, read("tokenizer_config.json")?.object, config: config, template: text("chat_template.jinja"), as: text("pre.txt"))
                try write(.array(Self.described(metadata.entries)), "keys.json")
                let architectures = ["Glm4MoeForCausalLM": "glm4moe", "LlamaForCausalLM": "llama"]
                let architecture = config["architectures"]?.array?.first?.string.flatMap { architectures[$0] } ?? "deepseek2"
                let back = TokenizerFiles([GGUFEntry("general.architecture", .string(architecture))] + metadata.entries)
                try write(.array(back.notes.map { .string($0) }), "notes.json")
                try FileManager.default.createDirectory(atPath: path + "/back", withIntermediateDirectories: true)
                for file in back.files { try Data(file.bytes).write(to: URL(fileURLWithPath: path + "/back/" + file.name)) }
            } catch { try write(.string("\(error)"), "failure.json") }
        }
    }
}
