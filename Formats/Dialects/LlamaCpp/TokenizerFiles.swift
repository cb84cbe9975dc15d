import StrictJSON

/// `tokenizer.json` and `tokenizer_config.json` out of a GGUF file's keys: the way back from ``TokenizerMetadata``.
package struct TokenizerFiles: Sendable {
    /// Names and bytes; empty if the tokenizer is of a kind that has no way back here.
    package private(set) var files: [(name: String, bytes: [UInt8])] = []
    /// What could not be kept, a sentence each.
    package private(set) var notes: [String] = []
    /// Token numbers that belong into `config.json`, as `eos_token_id`.
    package private(set) var configNumbers: JSONObject = [:]

    package init(_ entries: [GGUFEntry]) {
        do throws(Obstacle) { try make(entries) } catch {
            files = []
            configNumbers = [:]
            notes = ["no tokenizer.json is made: \(error.reason)"]
            return
        }
        check(entries)
    }

    private struct Obstacle: Error {
        var reason: String
    }

    private mutating func make(_ entries: [GGUFEntry]) throws(Obstacle) {
        guard let kind = entries["tokenizer.ggml.model"]?.string else { throw Obstacle(reason: "the file has no tokenizer") }
        guard kind == "gpt2" else {
            throw Obstacle(reason: "the tokenizer is of llama.cpp's kind \"\(kind)\", and only byte-level BPE (gpt2) is known here")
        }
        let name = entries["tokenizer.ggml.pre"]?.string ?? "default"
        guard let pattern = PreTokenizerPattern.named(name) else {
            throw Obstacle(reason: "the expressions of llama.cpp's pre-tokenizer \"\(name)\" are not known here")
        }
        guard let texts = entries["tokenizer.ggml.tokens"]?.strings else { throw Obstacle(reason: "the file has no list of tokens") }
        let types = entries["tokenizer.ggml.token_type"]?.ints ?? [Int](repeating: 1, count: texts.count)
        guard types.count == texts.count else { throw Obstacle(reason: "there are \(texts.count) tokens and \(types.count) types of tokens") }
        let merges = entries["tokenizer.ggml.merges"]?.strings ?? []

        let vocabulary = try Vocabulary(texts, types, merges)
        if vocabulary.retyped > 0 { notes.append("\(vocabulary.retyped) tokens of unusual types become normal tokens") }
        let tokens = Special(entries, texts, types)
        notes += tokens.notes
        configNumbers = tokens.configNumbers

        var settings: JSONObject = ["tokenizer_class": .string("PreTrainedTokenizerFast"), "clean_up_tokenization_spaces": .bool(false)]
        if let architecture = entries["general.architecture"]?.string, let length = entries["\(architecture).context_length"]?.int {
            settings["model_max_length"] = .int(length)
        }
        if let adds = entries["tokenizer.ggml.add_space_prefix"]?.bool { settings["add_prefix_space"] = .bool(adds) }
        for (kind, text) in tokens.named { settings["\(kind)_token"] = .string(text) }
        let around = Surroundings(entries, texts)
        for (kind, adds) in around.settings { settings["add_\(kind)_token"] = .bool(adds) }
        if let templates = Self.templates(entries) { settings["chat_template"] = templates }

        files = [
            ("tokenizer.json", Array(vocabulary.text(pattern, around.processor).utf8)),
            ("tokenizer_config.json", Array((JSONValue.object(settings).text() + "\n").utf8)),
        ]
    }

    private static func templates(_ entries: [GGUFEntry]) -> JSONValue? {
        let usual = entries["tokenizer.chat_template"]?.string
        let prefix = "tokenizer.chat_template."
        var named = entries.compactMap { entry -> (String, String)? in
            guard entry.key.hasPrefix(prefix), let text = entry.value.string else { return nil }
            return (String(entry.key.dropFirst(prefix.count)), text)
        }
        guard !named.isEmpty else { return usual.map { .string($0) } }
        if let usual { named.append(("default", usual)) }
        return .array(named.map { .object(["name": .string($0.0), "template": .string($0.1)]) })
    }

    /// Makes the keys again: what would differ is said.
    private mutating func check(_ entries: [GGUFEntry]) {
        let architecture = entries["general.architecture"]?.string
        var config = configNumbers
        config["vocab_size"] = .int(entries["tokenizer.ggml.tokens"]?.strings?.count ?? 0)
        if let name = Special.className(entries) { config["architectures"] = .array([.string(name)]) }
        func parsed(_ index: Int) -> JSONValue? { try? JSONValue(parsing: files[index].bytes) }
        let expected = entries.filter { $0.key.hasPrefix("tokenizer.") }
        do throws(DialectFailure) {
            guard let tokenizer = parsed(0) else { return notes.append("tokenizer.json has texts that are equal but for their composition") }
            let again = try TokenizerMetadata(
                tokenizer: tokenizer, tokenizerConfig: parsed(1), config: .object(config), chatTemplate: nil,
                preTokenizer: entries["tokenizer.ggml.pre"]?.string ?? "default"
            ).entries
            let differing = Set(expected.map(\.key)).union(again.map(\.key)).filter { expected[$0] != again[$0] }.sorted()
            if !differing.isEmpty {
                notes.append("a GGUF file made of the tokenizer again would differ in \(differing.joined(separator: ", "))")
            } else if expected != again {
                notes.append("a GGUF file made of the tokenizer again would have its keys in another order")
            }
        } catch {
            notes.append("no GGUF file of the architecture \(architecture ?? "") can be made of the tokenizer again: \(error)")
        }
    }

    // MARK: tokenizer.json

    private struct Vocabulary {
        /// Tokens and their numbers. The added ones are among them, so that each keeps its number whatever others lack.
        var members: [(text: String, number: Int)] = []
        var added: [(text: String, number: Int, isSpecial: Bool)] = []
        var merges: [(String, String)] = []
        /// Tokens of types that byte-level BPE has no use for.
        var retyped = 0

        init(_ texts: [String], _ types: [Int], _ merges: [String]) throws(Obstacle) {
            var known = Set<[UInt8]>()
            known.reserveCapacity(texts.count)
            for (number, (text, type)) in zip(texts, types).enumerated() {
                if type == 5, text == "[PAD\(number)]" { continue }
                guard !text.isEmpty else { throw Obstacle(reason: "token \(number) has no text") }
                guard known.insert(Array(text.utf8)).inserted else { throw Obstacle(reason: "the text \"\(text)\" stands for two tokens") }
                members.append((text, number))
                if type == 3 || type == 4 { added.append((text, number, type == 3)) } else if type != 1 { retyped += 1 }
            }
            for merge in merges {
                let sides = merge.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
                guard sides.count == 2, known.contains(Array(sides[0].utf8)), known.contains(Array(sides[1].utf8)),
                    known.contains(Array(sides[0].utf8) + Array(sides[1].utf8))
                else { throw Obstacle(reason: "the merge \"\(merge)\" is not of two tokens whose join is a token") }
                self.merges.append((sides[0], sides[1]))
            }
        }

        func text(_ pattern: PreTokenizerPattern, _ processor: JSONValue) -> String {
            let frame: JSONValue = .object([
                "version": .string("1.0"), "truncation": .null, "padding": .null,
                "added_tokens": .array(
                    added.map { token in
                        .object([
                            "id": .int(token.number), "content": .string(token.text), "single_word": .bool(false), "lstrip": .bool(false),
                            "rstrip": .bool(false),
                            // Decoding would take what lies in the byte alphabet for bytes.
                            "normalized": .bool(TokenizerVocabulary.decoded(token.text) != token.text), "special": .bool(token.isSpecial),
                        ])
                    }),
                "normalizer": pattern.composes ? .object(["type": .string("NFC")]) : .null,
                "pre_tokenizer": pattern.preTokenizer,
                "post_processor": processor,
                "decoder": Self.byteLevel,
            ])
            // Hundreds of thousands of members, written without a tree of them.
            var text = String(frame.text(pretty: false).dropLast())
            text +=
                #","model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"#
            text += #""byte_fallback":false,"ignore_merges":\#(pattern.ignoresMerges),"vocab":{"#
            for (place, member) in members.enumerated() {
                if place > 0 { text += "," }
                JSONValue.quote(member.text, into: &text)
                text += ":\(member.number)"
            }
            text += #"},"merges":["#
            for (place, merge) in merges.enumerated() {
                text += place > 0 ? ",[" : "["
                JSONValue.quote(merge.0, into: &text)
                text += ","
                JSONValue.quote(merge.1, into: &text)
                text += "]"
            }
            return text + "]}}\n"
        }

        static let byteLevel: JSONValue = .object([
            "type": .string("ByteLevel"), "add_prefix_space": .bool(true), "trim_offsets": .bool(true), "use_regex": .bool(true),
        ])
    }

    // MARK: Special tokens

    /// Which tokens are named by `tokenizer_config.json`, and which by number in `config.json`.
    private struct Special {
        var named: [(kind: String, text: String)] = []
        var configNumbers: JSONObject = [:]
        var notes: [String] = []

        /// The class whose tokens the converter knows.
        static func className(_ entries: [GGUFEntry]) -> String? {
            switch entries["general.architecture"]?.string {
            case "glm4moe": "Glm4MoeForCausalLM"
            case "glm-dsa": "GlmMoeDsaForCausalLM"
            // Both architectures that it has been; V3's tokenizers are never called glm4.
            case "deepseek2" where entries["tokenizer.ggml.pre"]?.string == "glm4" && entries["tokenizer.ggml.eom_token_id"] != nil:
                "Glm4MoeLiteForCausalLM"
            case "glm4": "Glm4ForCausalLM"
            case "llama" where entries["tokenizer.ggml.add_space_prefix"] != nil: "LlamaForCausalLM"
            default: nil
            }
        }

        init(_ entries: [GGUFEntry], _ texts: [String], _ types: [Int]) {
            let keys = Dictionary(uniqueKeysWithValues: SpecialTokens.keys.map { ("tokenizer.ggml.\($0.value)_token_id", $0.key) })
            var tokens = entries.compactMap { entry -> (kind: String, number: Int)? in
                guard let kind = keys[entry.key], let number = entry.value.int, texts.indices.contains(number) else { return nil }
                return (kind, number)
            }
            drop(SpecialTokenRules(.object(["architectures": .array([.string(Self.className(entries) ?? "")])])), from: &tokens, texts)
            // A turn's end besides the text's: the settings name the one, what is put around a text the other.
            if let turn = tokens.firstIndex(where: { $0.kind == "eot" }), let end = tokens.firstIndex(where: { $0.kind == "eos" }),
                entries["tokenizer.ggml.add_eos_token"]?.bool == true
            {
                tokens[end].number = tokens[turn].number
                tokens.remove(at: turn)
            }
            for (kind, _) in tokens where !SpecialTokens.kinds.contains(kind) {
                notes.append("the number of the \(kind) token has no place in a tokenizer's files")
            }
            tokens.removeAll { !SpecialTokens.kinds.contains($0.kind) }

            // The converter looks through the one file, then through the other.
            var last = -1
            var rest = tokens[...]
            while let (kind, number) = rest.first, let place = SpecialTokens.kinds.firstIndex(of: kind), place > last, [3, 4].contains(types[number])
            {
                named.append((kind, texts[number]))
                last = place
                rest = rest.dropFirst()
            }
            for (kind, number) in tokens where rest.contains(where: { $0.kind == kind }) || ["bos", "eos", "pad"].contains(kind) {
                configNumbers["\(kind)_token_id"] = .int(number)
            }
        }

        /// Takes out what the converter's class for the model adds, if all of it stands where it would.
        private func drop(_ rules: SpecialTokenRules, from tokens: inout [(kind: String, number: Int)], _ texts: [String]) {
            for count in 0..<tokens.count {
                var made = Array(tokens[..<count])
                for (kind, token) in rules.tokens where !made.contains(where: { $0.kind == kind }) {
                    if let number = texts.firstIndex(of: token) { made.append((kind, number)) }
                }
                if made.count == tokens.count, zip(made, tokens).allSatisfy({ $0.kind == $1.kind && $0.number == $1.number }) {
                    tokens = Array(tokens[..<count])
                    return
                }
            }
        }
    }

    // MARK: What is put around a text

    private struct Surroundings {
        var processor: JSONValue = .null
        /// What `tokenizer_config.json` says instead.
        var settings: [(kind: String, adds: Bool)] = []

        init(_ entries: [GGUFEntry], _ texts: [String]) {
            func flag(_ kind: String) -> Bool? { entries["tokenizer.ggml.add_\(kind)_token"]?.bool }
            func token(_ kind: String) -> (text: String, number: Int)? {
                guard flag(kind) == true, let number = entries["tokenizer.ggml.\(kind)_token_id"]?.int, texts.indices.contains(number) else {
                    return nil
                }
                return (texts[number], number)
            }
            let first = token("bos"), last = token("eos")
            var steps: [JSONValue] = []
            // A byte-level step says at first that nothing is added.
            let order = ["bos", "eos", "sep"].compactMap { kind in entries.firstIndex { $0.key == "tokenizer.ggml.add_\(kind)_token" } }
            if flag("bos") != nil, flag("eos") != nil, order == order.sorted() { steps.append(Vocabulary.byteLevel) }
            var separates = flag("sep")
            if first != nil || last != nil {
                // Two texts with the begin token between say that none separates.
                let repeats = separates == false && first != nil && first?.text != last?.text
                steps.append(Self.template(first, last, repeats: repeats))
                if repeats { separates = nil }
            }
            if steps.count == 1 { processor = steps[0] }
            if steps.count > 1 { processor = .object(["type": .string("Sequence"), "processors": .array(steps)]) }
            if !steps.contains(Vocabulary.byteLevel), ["bos", "eos"].contains(where: { flag($0) != nil && token($0) == nil }) {
                // Transformers takes either to be false where only the other is named.
                for kind in ["bos", "eos"] { if let adds = flag(kind) { settings.append((kind, adds)) } }
            }
            if let separates { settings.append(("sep", separates)) }
        }

        private static func template(_ first: (text: String, number: Int)?, _ last: (text: String, number: Int)?, repeats: Bool) -> JSONValue {
            func special(_ token: (text: String, number: Int)?, _ type: Int) -> [JSONValue] {
                token.map { [.object(["SpecialToken": .object(["id": .string($0.text), "type_id": .int(type)])])] } ?? []
            }
            func sequence(_ name: String, _ type: Int) -> [JSONValue] {
                [.object(["Sequence": .object(["id": .string(name), "type_id": .int(type)])])]
            }
            var tokens: JSONObject = [:]
            for token in [first, last].compactMap(\.self) {
                tokens[token.text] = .object([
                    "id": .string(token.text), "ids": .array([.int(token.number)]), "tokens": .array([.string(token.text)]),
                ])
            }
            let pair = special(first, 0) + sequence("A", 0) + (repeats ? special(first, 1) : []) + sequence("B", 1) + special(last, 1)
            return .object([
                "type": .string("TemplateProcessing"), "single": .array(special(first, 0) + sequence("A", 0) + special(last, 0)),
                "pair": .array(pair),
                "special_tokens": .object(tokens),
            ])
        }
    }
}
