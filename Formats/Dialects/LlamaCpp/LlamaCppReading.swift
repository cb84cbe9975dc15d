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
                if known.pairsHalves, let heads = Self.heads(tensor, known, entries), let rows = tensor.shape.first {
                    guard heads > 0, rows % (2 * heads) == 0 else {
                        throw DialectFailure(tensor: tensor.name, reason: "its \(tensor.shape) are not \(heads) heads of pairs of rows")
                    }
                    paired.append((tensors.count, rows / heads))
                }
                tensors += found
            } else {
                tensors.append(tensor)
                notes.append((tensor.name, "has no canonical name here and keeps llama.cpp's"))
            }
        }
    }

    /// Heads of a projection whose rows stand pair by pair; nil for all others.
    private static func heads(_ tensor: StoredTensor, _ known: LlamaCppArchitecture, _ entries: [GGUFEntry]) -> Int? {
        let all = entries[known.name + ".attention.head_count"]?.int ?? 0
        switch LlamaCppNames.parse(tensor.name)?.place?.role {
        case .query: return all
        case .key: return entries[known.name + ".attention.head_count_kv"]?.int ?? all
        default: return nil
        }
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
        guard let rotation = ModelConfiguration.Rotary.Llama3(factors: factors, base: base) else {
            // Its reader refuses the type.
            config["rope_scaling"] = .object(["rope_type": .string("factors of rope_freqs.weight")])
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
        guard isUnstacked, tensor.shape.count == (leaf == "bias" ? 2 : 3), tensor.byteCount > 0, (1...stackLimit).contains(tensor.shape[0]),
            tensor.byteCount % tensor.shape[0] == 0
        else { return nil }
        let count = tensor.shape[0], size = tensor.byteCount / count
        var slices: [StoredTensor] = []
        for expert in 0..<count {
            guard let module = module(place.role, of: architecture, layer: place.layer, expert: expert) else { return nil }
            var slice = tensor
            slice.name = module + "." + leaf
            slice.shape.removeFirst()
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
        func number(_ name: String, _ key: String) { put(name, own(key)?.double.map { JSONValue.double(shortest($0)) }) }
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
        } else if let type = own("rope.scaling.type")?.string, type != "none" {
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
