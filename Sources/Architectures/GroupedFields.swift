/// What most families with grouped-query attention call their modules and fields.
extension NameTable {
    /// Everything but the feed-forward networks.
    static let groupedAttention: [ModuleRole: String] = [
        .embedding: "model.embed_tokens", .finalNorm: "model.norm", .head: "lm_head",
        .inputNorm: "model.layers.#.input_layernorm", .postAttentionNorm: "model.layers.#.post_attention_layernorm",
        .query: "model.layers.#.self_attn.q_proj", .key: "model.layers.#.self_attn.k_proj", .value: "model.layers.#.self_attn.v_proj",
        .output: "model.layers.#.self_attn.o_proj", .rotaryFrequencies: "model.layers.#.self_attn.rotary_emb",
    ]
    /// Norms of queries and keys.
    static let attentionNorms: [ModuleRole: String] = [
        .queryHeadNorm: "model.layers.#.self_attn.q_norm", .keyHeadNorm: "model.layers.#.self_attn.k_norm",
    ]
    /// A dense network.
    static let dense: [ModuleRole: String] = [
        .gate: "model.layers.#.mlp.gate_proj", .up: "model.layers.#.mlp.up_proj", .down: "model.layers.#.mlp.down_proj",
    ]
    /// A mixture of experts beside, or in place of, the dense network.
    static let mixture: [ModuleRole: String] = [
        .router: "model.layers.#.mlp.gate", .expertGate: "model.layers.#.mlp.experts.#.gate_proj", .expertUp: "model.layers.#.mlp.experts.#.up_proj",
        .expertDown: "model.layers.#.mlp.experts.#.down_proj",
    ]
    static let shared: [ModuleRole: String] = [
        .sharedGate: "model.layers.#.mlp.shared_experts.gate_proj", .sharedUp: "model.layers.#.mlp.shared_experts.up_proj",
        .sharedDown: "model.layers.#.mlp.shared_experts.down_proj",
    ]

    static func joined(_ tables: [ModuleRole: String]...) -> [ModuleRole: String] {
        tables.reduce(into: [:]) { $0.merge($1) { first, _ in first } }
    }
}

extension FusedModules {
    /// As vLLM's `packed_modules_mapping` has them for these families.
    static let grouped = [
        FusedModules("qkv_proj", [.query, .key, .value], sharesRange: .always),
        FusedModules("gate_up_proj", [.gate, .up], sharesRange: .always),
        FusedModules("gate_up_proj", [.sharedGate, .sharedUp], sharesRange: .byModelOpt),
        FusedModules("gate_up_proj", [.expertGate, .expertUp], sharesRange: .byModelOpt),
    ]
}

extension Fold {
    /// casper-hansen/AutoAWQ:awq/models (llama, qwen3, qwen3_moe). The norm before a mixture leads into the router as well; values are shared by several
    /// heads, so the output's columns are no rows of theirs.
    static let grouped = [
        Fold(.inputNorm, into: [.query, .key, .value]),
        Fold(.postAttentionNorm, into: [.gate, .up], beside: [.router, .sharedGate]),
        Fold(.up, into: [.down]), Fold(.expertUp, into: [.expertDown]), Fold(.sharedUp, into: [.sharedDown]),
    ]
}

extension ConfigurationReader {
    /// Fields that ``grouped(norms:ropeSize:biased:)`` reads.
    static let groupedFields: Set<String> = [
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
        "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings", "attention_bias", "tie_word_embeddings",
        "hidden_act",
    ]

    /// Fields that ``refuseWindows()`` reads.
    static let windowFields: Set<String> = ["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"]

    /// Releases of Qwen describe windows and do not use them.
    func refuseWindows() throws {
        try only("use_sliding_window", [.bool(false)])
        for type in root["layer_types"]?.array ?? [] where type != .string("full_attention") {
            throw ArchitectureFailure.badField("layer_types", reason: "holds \(type.text(pretty: false)), which this forward pass does not have")
        }
    }

    /// A model of grouped-query attention and dense networks, from the fields that all families share.
    /// - Parameters:
    ///   - ropeSize: how much of a head of so many channels turns.
    ///   - biased: which weights `attention_bias` gives biases.
    func grouped(
        _ architecture: Architecture, norms: ModelConfiguration.Attention.Grouped.Norms, ropeSize: (Int) throws -> Int = { $0 },
        rotaryFields: Set<String> = [], biased: [ModuleRole] = [.query, .key, .value, .output]
    ) throws -> ModelConfiguration {
        try only("hidden_act", [.string("silu"), .string("swish")])
        let hiddenSize = try required("hidden_size"), heads = try required("num_attention_heads"), layers = try required("num_hidden_layers")
        let keyHeads = try optional("num_key_value_heads") ?? heads
        let headSize = try optional("head_dim") ?? hiddenSize / heads
        guard keyHeads > 0, heads % keyHeads == 0 else {
            throw ArchitectureFailure.badField("num_key_value_heads", reason: "does not divide num_attention_heads")
        }
        guard headSize > 0 else { throw ArchitectureFailure.badField("head_dim", reason: "is 0") }
        let rope = try ropeSize(headSize)
        guard rope > 0, rope % 2 == 0, rope <= headSize else {
            throw ArchitectureFailure.badField("head_dim", reason: "is \(headSize), of which \(rope) channels cannot turn")
        }
        var model = ModelConfiguration(
            architecture: architecture, hiddenSize: hiddenSize, layers: layers, heads: heads,
            attention: .grouped(.init(keyHeads: keyHeads, headSize: headSize, ropeSize: rope, norms: norms)), denseLayers: layers,
            vocabulary: try required("vocab_size"), epsilon: try epsilon("rms_norm_eps"), router: nil,
            rotary: try ModelConfiguration.Rotary(self, isInterleaved: false, others: rotaryFields),
            tiesHead: try flag("tie_word_embeddings") ?? false)
        model.intermediateSize = try optional("intermediate_size")
        if try flag("attention_bias") ?? false { model.biased = biased }
        return model
    }

    /// How many channels turn: a share of a head, beside or inside the description of the rotation.
    func partialRope(_ headSize: Int, fallback: Double = 1) throws -> Int {
        let inside = try ["rope_parameters", "rope_scaling"].lazy.compactMap { root[$0]?["partial_rotary_factor"] }.first.map { value in
            guard let share = value.double else { throw ArchitectureFailure.badField("partial_rotary_factor", reason: "is no number") }
            return share
        }
        let outside = try number("partial_rotary_factor")
        if let inside, let outside, inside != outside {
            throw ArchitectureFailure.badField("partial_rotary_factor", reason: "is given twice: \(outside) and \(inside)")
        }
        let share = inside ?? outside ?? fallback
        guard share > 0, share <= 1 else { throw ArchitectureFailure.badField("partial_rotary_factor", reason: "is \(share)") }
        return Int(Double(headSize) * share)
    }

    /// A gate over all experts at once.
    func router(
        experts: Int, scoring: ModelConfiguration.Router.Scoring, normalises: Bool, hasSelectionBias: Bool, groups: Int = 1, keptGroups: Int = 1,
        scalingFactor: Double = 1, sharedExperts: Int = 0
    ) throws -> ModelConfiguration.Router {
        let chosen = try required("num_experts_per_tok")
        guard chosen <= experts, groups > 0, experts % groups == 0, (1...groups).contains(keptGroups), chosen <= experts / groups * keptGroups,
            groups == 1 || experts / groups >= 2
        else { throw ArchitectureFailure.badField("num_experts_per_tok", reason: "does not fit the experts") }
        return ModelConfiguration.Router(
            experts: experts, expertsPerToken: chosen, groups: groups, keptGroups: keptGroups, scoring: scoring,
            groupScore: groups == 1 ? .none : .twoLargest, normalises: normalises, scalingFactor: Float(scalingFactor),
            hasSelectionBias: hasSelectionBias, sharedExperts: sharedExperts)
    }
}
