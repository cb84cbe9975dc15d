import Architectures
import StrictJSON
import Tensors

/// A GGUF file's tensors and keys as a Hugging Face checkpoint: canonical names, experts apart, `config.json`.
package struct LlamaCppReading {
    package private(set) var tensors: [StoredTensor]
    package private(set) var config: JSONObject
    /// Small files that the keys say the content of: the tokenizer's, sampling.
    package private(set) var files: [(name: String, bytes: [UInt8])] = []
    /// What could not be translated, a sentence each.
    package private(set) var notes: [(subject: String, text: String)] = []
    /// Tensors of which the rows of a head stand pair by pair, and how many a head has.
    package private(set) var paired: [(tensor: Int, headRows: Int)] = []

    /// - Parameters:
    ///   - stored: the tensors as the file names them.
    ///   - isUnstacked: whether stacks of experts are taken apart.
    ///   - read: the bytes of a small tensor.
    package init(
        _ stored: [StoredTensor], _ entries: [GGUFEntry], isUnstacked: Bool, read: (StoredTensor) throws -> [UInt8]
    ) throws {
        let name = entries["general.architecture"]?.string ?? ""
        let types = Dictionary(stored.map { ($0.name, $0.type) }) { first, _ in first }
        for tensor in stored where tensor.name.hasSuffix(".scale") {
            guard let type = types[tensor.name.dropLast("scale".utf8.count) + "weight"], type != .nvfp4Block else { continue }
            throw DialectFailure(
                tensor: tensor.name, reason: "would multiply a weight of \(type.rawValue), and only NVFP4 has a scale of its tensor that is read here"
            )
        }
        let known = LlamaCppArchitecture.called(name).flatMap { known in
            Architecture.known.first { !$0.modelTypes.isDisjoint(with: known.modelTypes) }.map { (known, $0) }
        }
        guard let (known, architecture) = known else {
            tensors = stored
            config = ["model_type": .string(name.isEmpty ? "gguf" : name)]
            notes.append(
                (
                    "general.architecture",
                    "the architecture \"\(name)\" of llama.cpp is not known here: its tensors keep llama.cpp's names and orders, and no config.json is made of its keys"
                ))
            return
        }
        config = LlamaCppConfig.json(known, entries, stored)
        for (key, value) in LlamaCppConfig.unread(known, entries) {
            // Whoever runs or rewrites the model refuses a field that nobody knows.
            config[key] = value
            notes.append((key, "is a key of the architecture that is not known here; config.json gets it as it is, and the model is not run with it"))
        }
        let tokenizer = TokenizerFiles(entries)
        files = tokenizer.files
        for (key, value) in tokenizer.configNumbers.members { config[key] = value }
        notes += tokenizer.notes.map { ("tokenizer.ggml", $0) }
        if let generation = LlamaCppConfig.generation(entries) { files.append(("generation_config.json", Array((generation.text() + "\n").utf8))) }
        tensors = []
        let wholeLatents = Set(stored.compactMap { LlamaCppNames.parse($0.name) }.filter { $0.name == LlamaCppNames.wholeLatent }.map(\.layer))
        for tensor in stored {
            if let found = LlamaCppNames.parse(tensor.name), LlamaCppNames.halves.contains(found.name), wholeLatents.contains(found.layer) {
                notes.append((tensor.name, "is a half of \(LlamaCppNames.wholeLatent), which the file holds too, and is left out"))
                continue
            }
            if known.pairsHalves, tensor.name == LlamaCppNames.rotaryFactors {
                try takeRotaryFactors(tensor, read)
                continue
            }
            if let found = Self.canonical(tensor, architecture, isUnstacked: isUnstacked) {
                if known.pairsHalves, let rows = try Self.headRows(tensor, known, entries) { paired.append((tensors.count, rows)) }
                tensors += found
            } else {
                tensors.append(tensor)
                notes.append((tensor.name, "has no canonical name here and keeps llama.cpp's"))
            }
        }
    }

    /// Rows of a head of a projection whose rows stand pair by pair; nil for all others.
    private static func headRows(_ tensor: StoredTensor, _ known: LlamaCppArchitecture, _ entries: [GGUFEntry]) throws(DialectFailure) -> Int? {
        let role = LlamaCppNames.parse(tensor.name)?.place?.role
        guard role == .query || role == .key else { return nil }
        /// A number that sizes are made of; nil where there is no such key.
        func size(_ key: String) throws(DialectFailure) -> Int? {
            guard let value = entries[known.name + "." + key] else { return nil }
            guard let number = value.int, (1..<1 << 24).contains(number) else {
                throw DialectFailure(tensor: known.name + "." + key, reason: "is no usable whole number")
            }
            return number
        }
        guard let all = try size("attention.head_count") else {
            throw DialectFailure(tensor: tensor.name, reason: "\(known.name).attention.head_count is missing, and rows stand in the order of heads")
        }
        let heads = role == .query ? all : try size("attention.head_count_kv") ?? all
        let width = try size("embedding_length")
        let rows = try size("attention.key_length") ?? width.map { $0 / all }
        guard let rows, rows > 0, rows % 2 == 0, tensor.shape.first == heads * rows else {
            throw DialectFailure(tensor: tensor.name, reason: "its \(tensor.shape) are not \(heads) heads of \(rows ?? 0) rows")
        }
        return rows
    }

    /// Llama 3's rotation out of its factors.
    private mutating func takeRotaryFactors(_ tensor: StoredTensor, _ read: (StoredTensor) throws -> [UInt8]) throws {
        guard tensor.type == .f32, tensor.shape.count == 1, tensor.byteCount <= 1 << 16 else {
            throw DialectFailure(tensor: tensor.name, reason: "is \(tensor.summary), and factors of a rotation are a vector of F32")
        }
        let bytes = try read(tensor)
        let factors = bytes.withUnsafeBytes { raw in
            (0..<bytes.count / 4).map { Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))) }
        }
        let base = config["rope_theta"]?.double ?? 10000
        if !factors.isEmpty, factors.allSatisfy({ $0 == 1 }) { return }
        guard let rotation = ModelConfiguration.Rotary.Llama3(factors: factors, base: base) else {
            // Its reader refuses the type.
            config["rope_scaling"] = .object([
                "rope_type": .string("factors of rope_freqs.weight"), "factors": .array(factors.map { .double(Double($0)) }),
            ])
            notes.append(
                (
                    tensor.name,
                    "holds factors of a rotation that config.json has no words for here; the model cannot be run, its weights can be converted"
                ))
            return
        }
        config["rope_scaling"] = .object([
            "rope_type": .string("llama3"), "factor": .double(rotation.factor), "low_freq_factor": .double(rotation.lowFrequencyFactor),
            "high_freq_factor": .double(rotation.highFrequencyFactor), "original_max_position_embeddings": .int(Int(rotation.originalLength)),
        ])
    }

    /// More experts than any model has.
    private static let stackLimit = 1 << 16

    private static func canonical(_ tensor: StoredTensor, _ architecture: Architecture, isUnstacked: Bool) -> [StoredTensor]? {
        guard let (place, layer, name, leaf) = LlamaCppNames.parse(tensor.name) else { return nil }
        func renamed(_ name: String) -> [StoredTensor] {
            var result = tensor
            result.name = name
            return [result]
        }
        if let layer, name == LlamaCppNames.selectionBias, leaf == "bias" {
            return architecture.selectionBiasName(layer: layer).map(renamed)
        }
        if let layer, name == LlamaCppNames.sinks { return architecture.sinksName(layer: layer).map(renamed) }
        if let layer, let half = LlamaCppNames.halves.firstIndex(of: name) {
            guard let module = architecture.module(.keyValueUp, layer: layer) else { return nil }
            return renamed(WeightName.module(module) + "." + MLX.halves[half] + "." + leaf)
        }
        guard let place else { return nil }
        guard ModuleRole.routedExpert.contains(place.role) else {
            return architecture.module(place.role, layer: place.layer).map { renamed($0 + "." + leaf) }
        }
        let rank = leaf == NVFP4BlockLayout.scaleLeaf ? 1 : leaf == "bias" ? 2 : 3
        guard isUnstacked, tensor.shape.count == rank, tensor.byteCount > 0, (1...stackLimit).contains(tensor.shape[0]),
            tensor.byteCount % tensor.shape[0] == 0
        else { return nil }
        let count = tensor.shape[0], size = tensor.byteCount / count
        var slices: [StoredTensor] = []
        for expert in 0..<count {
            guard let module = module(place.role, of: architecture, layer: place.layer, expert: expert) else { return nil }
            var slice = tensor
            slice.name = module + "." + leaf
            slice.shape.removeFirst()
            if rank == 1 { slice.shape = [1] }
            slice.offset += expert * size
            slice.byteCount = size
            slices.append(slice)
        }
        return slices
    }
}

extension LlamaCppReading {
    /// The canonical module of a matrix of an expert; where the architecture has gate and up as one, the names of its halves.
    private static func module(_ role: ModuleRole, of architecture: Architecture, layer: Int?, expert: Int) -> String? {
        if let module = architecture.module(role, layer: layer, expert: expert) { return module }
        guard let half = [ModuleRole.expertGate, .expertUp].firstIndex(of: role),
            let whole = architecture.module(.expertGateUp, layer: layer, expert: expert)
        else { return nil }
        return WeightName.module(whole) + "." + GptOssExperts.halves[half]
    }
}

/// `config.json` out of a GGUF file's keys.
enum LlamaCppConfig {
    static func json(_ architecture: LlamaCppArchitecture, _ entries: [GGUFEntry], _ tensors: [StoredTensor]) -> JSONObject {
        func own(_ key: String) -> GGUFValue? { entries[architecture.name + "." + key] }
        /// A number that sizes are made of.
        func size(_ key: String) -> Int? { own(key)?.int.flatMap { (0..<1 << 31).contains($0) ? $0 : nil } }
        var config = JSONObject()
        func put(_ name: String, _ value: JSONValue?) { if let value { config[name] = value } }
        func count(_ name: String, _ key: String) { put(name, own(key)?.int.map(JSONValue.int)) }
        /// What is no number becomes a text, which whoever reads the field refuses.
        func number(_ name: String, _ key: String) {
            put(name, own(key)?.double.map { $0.isFinite ? JSONValue.double(shortest($0)) : .string("\($0)") })
        }
        let (type, model) = hub(architecture, entries)
        config["architectures"] = .array([.string(model)])
        config["model_type"] = .string(type)
        put("_name_or_path", entries["general.name"]?.string.map(JSONValue.string))
        let embedding = tensors.first { $0.name == "token_embd.weight" }
        put("vocab_size", (own("vocab_size")?.int ?? embedding?.shape.first).map(JSONValue.int))
        count("hidden_size", "embedding_length")
        count("intermediate_size", "feed_forward_length")
        // Modules that predict further tokens are counted among the blocks.
        let further = size("nextn_predict_layers") ?? 0
        put("num_hidden_layers", size("block_count").map { .int(max(0, $0 - further)) })
        count("num_attention_heads", "attention.head_count")
        if architecture.isLatent {
            count("num_key_value_heads", "attention.head_count")
            // Before the latent's projection was split, a head's own widths stood where the latent's do now.
            let ending = own("attention.key_length_mla") != nil ? "_mla" : ""
            if let whole = size("attention.key_length" + ending), let rope = size("rope.dimension_count"), whole > rope {
                config["qk_nope_head_dim"] = .int(whole - rope)
            }
            count("v_head_dim", "attention.value_length" + ending)
            config["q_lora_rank"] = own("attention.q_lora_rank")?.int.map(JSONValue.int) ?? .null
        } else {
            count("num_key_value_heads", "attention.head_count_kv")
            count("head_dim", "attention.key_length")
        }
        count("max_position_embeddings", "context_length")
        number("rms_norm_eps", "attention.layer_norm_rms_epsilon")
        number("rope_theta", "rope.freq_base")
        count(architecture.expertsField, "expert_count")
        count("num_experts_per_tok", "expert_used_count")
        count("n_group", "expert_group_count")
        count("topk_group", "expert_group_used_count")
        for field in architecture.fields {
            guard let name = field.name, config[name] == nil else { continue }
            if field.key == LlamaCppArchitecture.indexerTypesKey {
                put(name, own(field.key)?.ints.map { .array($0.map { .string($0 != 0 ? "full" : "shared") }) })
                continue
            }
            if field.isShareOfHead {
                guard let part = size(field.key), let whole = size("attention.key_length"), whole > 0 else { continue }
                config[name] = .double(Double(part) / Double(whole))
            } else if let value = own(field.key) {
                put(name, value.bool.map(JSONValue.bool) ?? value.int.map(JSONValue.int) ?? value.double.map { .double(shortest($0)) })
            } else {
                put(name, field.absent)
            }
        }
        if architecture.isLatent {
            let isSigmoid = own("expert_gating_func")?.int == 2
            config["scoring_func"] = .string(isSigmoid ? "sigmoid" : "softmax")
            config["topk_method"] = .string(isSigmoid ? "noaux_tc" : own("expert_group_count")?.int ?? 1 > 1 ? "group_limited_greedy" : "greedy")
            config["moe_layer_freq"] = .int(1)
            config["num_nextn_predict_layers"] = .int(further)
            config["attention_bias"] = .bool(false)
        }
        for (name, value) in architecture.constants.members where config[name] == nil { config[name] = value }
        for (name, ending) in architecture.presences { config[name] = .bool(tensors.contains { $0.name.hasSuffix(ending) }) }
        if own("rope.scaling.type")?.string == "yarn" {
            var rotary: JSONObject = ["type": .string("yarn")]
            for (name, key) in [("factor", "factor"), ("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                if let value = own("rope.scaling." + key)?.double { rotary[name] = .double(shortest(value)) }
            }
            if let original = own("rope.scaling.original_context_length")?.int { rotary["original_max_position_embeddings"] = .int(original) }
            if let tenth = own("rope.scaling.yarn_log_multiplier")?.double {
                // Its graph has one number for both.
                rotary["mscale"] = .double(shortest(shortest(tenth) * 10))
                rotary["mscale_all_dim"] = rotary["mscale"]
            }
            // Factors that the configuration has no word for: its reader then refuses them.
            for key in ["yarn_ext_factor", "yarn_attn_factor"] {
                if let value = own("rope.scaling." + key)?.double { rotary[key] = .double(shortest(value)) }
            }
            config["rope_scaling"] = .object(rotary)
        } else if let type = own("rope.scaling.type")?.string ?? own("rope.scaling.factor").map({ $0.double == 1 ? "none" : "linear" }),
            type != "none"
        {
            config["rope_scaling"] = .object(["type": .string(type), "factor": .double(own("rope.scaling.factor")?.double ?? 1)])
        }
        config["hidden_act"] = .string("silu")
        config["tie_word_embeddings"] = .bool(!tensors.contains { $0.name == "output.weight" })
        for (name, key) in [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")] {
            put(name, entries["tokenizer.ggml." + key]?.int.map(JSONValue.int))
        }
        config["torch_dtype"] = .string("bfloat16")
        return config
    }

    /// Keys of the architecture that ``json(_:_:_:)`` makes nothing of, and that say something.
    static func unread(_ architecture: LlamaCppArchitecture, _ entries: [GGUFEntry]) -> [(key: String, value: JSONValue)] {
        let known = read.union(architecture.fields.map(\.key))
        return entries.compactMap { entry in
            guard entry.key.hasPrefix(architecture.name + "."), !known.contains(String(entry.key.dropFirst(architecture.name.utf8.count + 1))) else {
                return nil
            }
            if let flag = entry.value.bool {
                // Every model here sees what came before, and nothing else.
                if entry.key == architecture.name + ".attention.causal" { return flag ? nil : (entry.key, .string("false")) }
                return flag ? (entry.key, .bool(true)) : nil
            }
            if let number = entry.value.double { return number == 0 ? nil : (entry.key, .double(shortest(number))) }
            if let text = entry.value.string { return text.isEmpty || text == "none" ? nil : (entry.key, .string(text)) }
            return (entry.key, .string("an array"))
        } + unlike(architecture, entries)
    }

    /// Widths that `config.json` has one word for and that differ, where heads are of one width.
    private static func unlike(_ architecture: LlamaCppArchitecture, _ entries: [GGUFEntry]) -> [(key: String, value: JSONValue)] {
        func own(_ key: String) -> Int? { entries[architecture.name + "." + key]?.int }
        guard !architecture.isLatent, let heads = own("attention.head_count"), heads > 0 else { return [] }
        let width = own("attention.key_length") ?? own("embedding_length").map { $0 / heads }
        let hasShare = architecture.fields.contains { $0.key == "rope.dimension_count" && $0.name != nil }
        return ["attention.value_length", hasShare ? nil : "rope.dimension_count"].compactMap { $0 }.compactMap { key in
            guard let value = own(key), value != width else { return nil }
            return (architecture.name + "." + key, .int(value))
        }
    }

    /// What every architecture's keys may be, those among them that change nothing.
    private static let read: Set<String> = [
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count", "attention.head_count_kv",
        "attention.key_length", "attention.value_length", "attention.key_length_mla", "attention.value_length_mla",
        "attention.layer_norm_rms_epsilon", "attention.q_lora_rank", "rope.freq_base", "rope.dimension_count", "rope.scaling.type",
        "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
        "expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count", "expert_gating_func", "nextn_predict_layers",
    ]

    /// `generation_config.json`; nil if the file says nothing of sampling.
    static func generation(_ entries: [GGUFEntry]) -> JSONValue? {
        var config = JSONObject()
        for (name, key) in LlamaCppMetadata.sampling {
            guard let value = entries["general.sampling." + key] else { continue }
            config[name] = value.int.map(JSONValue.int) ?? value.double.map { JSONValue.double(shortest($0)) }
        }
        guard !config.members.isEmpty else { return nil }
        for (name, key) in [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")] {
            if let value = entries["tokenizer.ggml." + key]?.int { config[name] = .int(value) }
        }
        return .object(config)
    }

    private static func hub(_ architecture: LlamaCppArchitecture, _ entries: [GGUFEntry]) -> (type: String, model: String) {
        // Two generations and GLM-4.7-Flash have one name; their gates differ, or their ways of cutting text.
        if architecture.name == "deepseek2", entries["tokenizer.ggml.pre"]?.string == "glm4" {
            return LlamaCppArchitecture.known.first { $0.modelTypes == ["glm4_moe_lite"] }?.hub ?? architecture.hub
        }
        return architecture.name == "deepseek2" && entries["deepseek2.expert_gating_func"]?.int != 2
            ? ("deepseek_v2", "DeepseekV2ForCausalLM") : architecture.hub
    }

    /// The shortest decimal that is the same F32: 1e-06, not 9.999999974752427e-07.
    private static func shortest(_ value: Double) -> Double { Double("\(Float(value))") ?? value }
}
