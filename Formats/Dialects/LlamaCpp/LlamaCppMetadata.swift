import Architectures
import StrictJSON
import Tensors

/// The keys that llama.cpp's converter writes, in its order (llama.cpp:conversion/base.py `set_gguf_parameters`, conversion/deepseek.py, qwen.py).
struct LlamaCppMetadata {
    private(set) var entries: [GGUFEntry] = []
    /// What a user should know, a sentence each.
    private(set) var notes: [String] = []
    /// What a user must know before relying on the file.
    private(set) var warnings: [String] = []
    private let config: JSONValue
    private let architecture: LlamaCppArchitecture
    private let model: ModelConfiguration

    /// - Parameter holdsPrediction: whether the modules that predict further tokens are blocks of the file.
    init(_ file: LlamaCppFileType, _ model: DescribedModel, holdsPrediction: Bool, preTokenizer: String?) throws {
        config = model.config
        guard let known = model.roles.architecture.flatMap(LlamaCppArchitecture.named) else {
            throw DialectFailure(tensor: "config.json", reason: "llama.cpp's keys of this architecture are not known here")
        }
        architecture = known
        var described = try ModelConfiguration(config: config)
        if !holdsPrediction { described.mtpModules = 0 }
        self.model = described
        try Self.check(self.model, known)
        // llama.cpp:src/models/deepseek2.cpp knows such models by their layers.
        if case .latent(let latent) = self.model.attention, latent.queryRank == nil, ![26, 27].contains(self.model.layers) {
            warnings.append("q_lora_rank is null, and llama.cpp loads such models only if they have 26 or 27 layers (V2-Lite, Moonlight)")
        }
        if self.model.rotary.yarn?.truncates == false {
            warnings.append(
                "rope_scaling.truncate is false, and llama.cpp always rounds the pairs between which YaRN mixes: its logits differ a little")
        }
        let held = model.tensors.count { $0.name.hasSuffix(".nextn.eh_proj.weight") }
        guard held == self.model.mtpModules else {
            throw DialectFailure(
                tensor: "config.json",
                reason: "num_nextn_predict_layers promises \(self.model.mtpModules) modules and the weights hold \(held); llama.cpp would not load it"
            )
        }
        add("general.architecture", .string(known.name))
        add("general.type", .string("model"))
        try addSampling(model)
        // As published, if the configuration says so; a path on somebody's disk is no name.
        let published = model.config["_name_or_path"]?.string.flatMap { $0.isEmpty || $0.count(where: { $0 == "/" }) > 1 ? nil : $0 }
        add("general.name", .string(Self.title(published?.split(separator: "/").last.map(String.init) ?? model.name)))
        add("general.size_label", .string(Self.sizeLabel(model.tensors)))
        try addSizes()
        // Plain numbers beside MXFP4 blocks have a type of their own.
        let kept = file.isPlain ? model.tensors.lazy.map(\.type).first { $0 == .mxfp4Block || $0 == .nvfp4Block } : nil
        add("general.file_type", .u32(kept == .mxfp4Block ? 38 : kept == .nvfp4Block ? 39 : file.number))
        addFields()
        add("general.quantization_version", .u32(2))
        for entry in entries {
            if case .f32(let value) = entry.value, !value.isFinite {
                throw DialectFailure(tensor: "config.json", reason: "\(entry.key) is beyond what F32 holds")
            }
        }
        guard described.epsilon == 0 || Float(described.epsilon) > 0 else {
            throw DialectFailure(tensor: "config.json", reason: "rms_norm_eps is \(described.epsilon), which F32 does not hold")
        }
        try addTokenizer(model, preTokenizer)
    }

    /// Refuses what the keys have no words for: llama.cpp would compute something else, and nobody would be told.
    private static func check(_ model: ModelConfiguration, _ architecture: LlamaCppArchitecture) throws(DialectFailure) {
        func refuse(_ field: String, _ reason: String) -> DialectFailure { DialectFailure(tensor: "config.json", reason: "\(field) \(reason)") }
        let takesBiases = architecture.presences["attention_bias"] != nil && (architecture.takesOutputBias || !model.biased.contains(.output))
        guard model.biased.isEmpty || architecture.isBiased || takesBiases else {
            throw refuse("attention_bias", "is true, and llama.cpp's \(architecture.name) has no such biases")
        }
        if architecture.isBiased, !model.biased.contains(.query) {
            throw refuse("attention_bias", "is false, and llama.cpp's \(architecture.name) always has such biases")
        }
        if architecture.isLatent, !model.rotary.isInterleaved { throw refuse("rope_interleave", "is false, and llama.cpp turns pairs") }
        if case .clamped(let alpha, let limit) = model.activation, alpha != 1.702 || limit != 7 {
            throw refuse("swiglu_limit", "is \(limit) and swiglu_alpha \(alpha); llama.cpp has 7 and 1.702")
        }
        if let window = model.window, window.layers != (0..<model.layers).filter({ $0 % 2 == 0 }) {
            throw refuse("layer_types", "does not have a window in every second layer from the first, as llama.cpp's \(architecture.name) has")
        }
        if architecture.constants["norm_topk_prob"] == .bool(true), let router = model.router, !router.normalises {
            throw refuse("norm_topk_prob", "is false, and llama.cpp's \(architecture.name) always divides by the sum of the chosen weights")
        }
        guard model.otherDenseLayers.isEmpty else {
            throw refuse("mlp_only_layers or decoder_sparse_step", "leaves layers without experts, which llama.cpp's \(architecture.name) does not")
        }
        guard model.rotary.llama3 == nil || architecture.pairsHalves else {
            throw refuse("rope_scaling", "of the type llama3 is not written for llama.cpp here")
        }
        guard let yarn = model.rotary.yarn else { return }
        guard yarn.truncates || architecture.roundsYaRN else { throw refuse("rope_scaling.truncate", "is false, and llama.cpp always rounds") }
        guard yarn.attentionFactor == nil else { throw refuse("rope_scaling.attention_factor", "is not written for llama.cpp here") }
        let scales = [yarn.mscale ?? 0, yarn.mscaleAllDimensions ?? 0]
        if architecture.isLatent {
            // Its graph puts the one number into the scores and nothing into cosines and sines, which is right where both are the same.
            guard scales[0] == scales[1], scales[0] != 0 else {
                throw refuse("rope_scaling.mscale", "is \(scales[0]) and mscale_all_dim \(scales[1]); llama.cpp knows only one number for both")
            }
        } else if scales != [0, 0] {
            throw refuse("rope_scaling.mscale", "is not known of llama.cpp's \(architecture.name)")
        }
    }

    private mutating func addTokenizer(_ model: DescribedModel, _ preTokenizer: String?) throws {
        guard let tokenizer = try Self.json("tokenizer.json", model) else {
            warnings.append("no tokenizer.json lies beside the source, so the file has no tokenizer, and llama.cpp does not load a model without one")
            return
        }
        let template = try model.sideFile("chat_template.jinja").map { bytes throws(DialectFailure) in
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw DialectFailure(tensor: "chat_template.jinja", reason: "is no UTF-8")
            }
            return text
        }
        let tokenizerConfig = try Self.json("tokenizer_config.json", model)
        if architecture.pairsHalves, let adds = tokenizerConfig?["add_prefix_space"]?.bool { add("tokenizer.ggml.add_space_prefix", .bool(adds)) }
        let found = try TokenizerMetadata(
            tokenizer: tokenizer, tokenizerConfig: tokenizerConfig, config: config, chatTemplate: template,
            preTokenizer: preTokenizer, fallback: architecture.preTokenizer)
        entries += found.entries
        notes += found.notes
        warnings += found.warnings
    }

    private static func json(_ name: String, _ model: DescribedModel) throws -> JSONValue? {
        guard let bytes = try model.sideFile(name) else { return nil }
        do { return try JSONValue(parsing: bytes) } catch { throw DialectFailure(tensor: name, reason: "the JSON text is malformed: \(error)") }
    }

    private mutating func add(_ key: String, _ value: GGUFValue) { entries.append(GGUFEntry(key, value)) }

    private mutating func addOwn(_ key: String, _ value: GGUFValue) { add(architecture.name + "." + key, value) }

    // MARK: Sizes

    /// What all architectures have.
    private mutating func addSizes() throws(DialectFailure) {
        addOwn("block_count", .u32(try count("num_hidden_layers") + UInt32(clamping: model.mtpModules)))
        try addCount("context_length", "max_position_embeddings", isNeeded: true)
        try addCount("embedding_length", "hidden_size", isNeeded: true)
        try addCount("feed_forward_length", "intermediate_size")
        try addCount("attention.head_count", "num_attention_heads", isNeeded: true)
        if architecture.isLatent {
            // Latent attention runs as one key head that all queries share.
            addOwn("attention.head_count_kv", .u32(1))
        } else {
            try addCount("attention.head_count_kv", "num_key_value_heads")
        }
        try addRotary()
        addOwn("attention.layer_norm_rms_epsilon", .f32(Float(model.epsilon)))
        for name in ["num_local_experts", "num_experts", "n_routed_experts"] where config[name]?.int != nil {
            try addCount("expert_count", name)
            break
        }
        try addCount("expert_used_count", "num_experts_per_tok")
        try addCount("expert_group_count", "n_group")
        try addCount("expert_group_used_count", "topk_group")
        // transformers leaves out what is its class's default, which is not llama.cpp's.
        let isOwn = architecture.fields.contains { $0.key == LlamaCppArchitecture.scoringKey }
        if !isOwn, config["scoring_func"] ?? .null != .null || model.router?.scoring == .sigmoid {
            LlamaCppArchitecture.Field.scoring.value(model).map { addOwn(LlamaCppArchitecture.scoringKey, $0) }
        }
        if architecture.isLatent {
            let (latent, rope) = (try count("kv_lora_rank"), try count("qk_rope_head_dim"))
            addOwn("attention.key_length", .u32(latent + rope))
            addOwn("attention.value_length", .u32(latent))
        } else if config["head_dim"]?.int != nil {
            let size = try count("head_dim")
            addOwn("attention.key_length", .u32(size))
            addOwn("attention.value_length", .u32(size))
        }
    }

    /// The description of the rotation, under whichever name it is.
    private var rotation: JSONValue? { ["rope_parameters", "rope_scaling"].lazy.compactMap { config[$0] }.first { $0 != .null } }

    private mutating func addRotary() throws(DialectFailure) {
        let rotary = rotation
        let type = rotary?["rope_type"]?.string ?? rotary?["type"]?.string
        let theta = config["rope_theta"]?.double ?? rotary?["rope_theta"]?.double
        switch type {
        case nil, "default": break
        // A tensor says it.
        case "llama3" where architecture.pairsHalves: break
        case "yarn":
            addOwn("rope.scaling.type", .string("yarn"))
            addOwn("rope.scaling.factor", .f32(Float(rotary?["factor"]?.double ?? 1)))
            guard let original = rotary?["original_max_position_embeddings"]?.int.flatMap(UInt32.init(exactly:)) else {
                throw DialectFailure(tensor: "config.json", reason: "rope_scaling has no original_max_position_embeddings")
            }
            addOwn("rope.scaling.original_context_length", .u32(original))
            for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let value = rotary?[name]?.double { addOwn("rope.scaling." + key, .f32(Float(value))) }
            }
        case let other?:
            throw DialectFailure(tensor: "config.json", reason: "the rotary scaling \(other) is not written for llama.cpp here")
        }
        if let theta { addOwn("rope.freq_base", .f32(Float(theta))) }
    }

    /// What this architecture has besides.
    private mutating func addFields() {
        for field in architecture.fields {
            if field.isOptional, field.name.flatMap({ config[$0] }) ?? .null == .null { continue }
            if let value = field.value(model) { addOwn(field.key, value) }
        }
    }

    private func count(_ name: String) throws(DialectFailure) -> UInt32 {
        guard let value = config[name]?.int.flatMap(UInt32.init(exactly:)), value < 1 << 31 else {
            throw DialectFailure(tensor: "config.json", reason: "\(name) is missing or no count, and llama.cpp's loader needs it")
        }
        return value
    }

    private mutating func addCount(_ key: String, _ name: String, isNeeded: Bool = false) throws(DialectFailure) {
        guard isNeeded || config[name]?.int != nil else { return }
        addOwn(key, .u32(try count(name)))
    }

    // MARK: Names

    /// Fields of generation_config.json and the keys that they are.
    static let sampling = [
        ("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p"), ("xtc_probability", "xtc_probability"), ("xtc_threshold", "xtc_threshold"),
        ("temperature", "temp"), ("penalty_last_n", "penalty_last_n"), ("penalty_repeat", "penalty_repeat"),
    ]

    private mutating func addSampling(_ model: DescribedModel) throws {
        guard let generation = try Self.json("generation_config.json", model) else { return }
        for (name, key) in Self.sampling {
            let isCount = ["top_k", "penalty_last_n"].contains(key)
            if isCount, let value = generation[name]?.int.flatMap(Int32.init(exactly:)) {
                add("general.sampling." + key, .i32(value))
            } else if !isCount, let value = generation[name]?.double {
                add("general.sampling." + key, .f32(Float(value)))
            }
        }
    }

    /// "tiny-deepseek-v3-fp8" as "Tiny Deepseek v3 Fp8": words without capitals get one, versions and numbers stay (gguf-py: `id_to_title`).
    static func title(_ name: String) -> String {
        name.replacing("-", with: " ").split(whereSeparator: \.isWhitespace).map { word -> String in
            let isVersion = word.first == "v" && word.dropFirst().first?.isNumber == true && word.dropFirst().allSatisfy { $0.isNumber || $0 == "." }
            guard !isVersion, word.first?.isNumber == false, word.contains(where: \.isLetter), !word.contains(where: \.isUppercase) else {
                return String(word)
            }
            // Every run of letters begins with a capital.
            var result = "", begins = true
            for character in word {
                result += begins ? character.uppercased() : String(character)
                begins = !character.isLetter
            }
            return result
        }.joined(separator: " ")
    }

    /// "12x3.0M" of twelve experts, "8.2B" of a dense model (gguf-py: `size_label`).
    static func sizeLabel(_ tensors: [TensorDeclaration]) -> String {
        var shared = 0, expert = 0, experts = 0, stacks = 0
        for tensor in tensors {
            let count = Shape.count(tensor.shape) ?? 0
            if tensor.name.contains("_exps."), tensor.shape.count >= 3 {
                expert += count / max(1, tensor.shape[0])
                experts += tensor.shape[0]
                stacks += 1
            } else {
                shared += count
            }
        }
        let size = rounded(shared + expert)
        return stacks > 0 ? "\(experts / stacks)x\(size)" : size
    }

    private static func rounded(_ count: Int) -> String {
        let (scale, suffix): (Double, String) =
            Double(count) > 1e12 ? (1e-12, "T") : Double(count) > 1e9 ? (1e-9, "B") : Double(count) > 1e6 ? (1e-6, "M") : (1e-3, "K")
        let value = Double(count) * scale
        let digits = Int(value.rounded(.toNearestOrEven))
        // Two digits that say something.
        let places = max(2 - (digits == 0 ? 0 : String(digits).count), 0)
        return FixedPoint.text(value, places: places) + suffix
    }
}

/// Decimals of a number that is not negative.
private enum FixedPoint {
    /// `value` with so many decimals, ties to even of the binary value as C's printf has it.
    static func text(_ value: Double, places: Int) -> String {
        let scale = places == 0 ? 1.0 : places == 1 ? 10.0 : 100.0
        let whole = Int((value * scale).rounded(.toNearestOrEven))
        guard places > 0 else { return String(whole) }
        let digits = String(whole)
        let padded = String(repeating: "0", count: max(0, places + 1 - digits.count)) + digits
        return padded.dropLast(places) + "." + padded.suffix(places)
    }
}
