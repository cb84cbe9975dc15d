import StrictJSON

extension Architecture {
    /// DeepSeek-V2, V3 and R1, and Kimi-K2, which has their code: latent attention, a mixture of experts with shared ones, modules that predict one
    /// token more.
    ///
    /// Sources: huggingface/transformers:src/transformers/models/deepseek_v3 and deepseek_v2, deepseek-ai/DeepSeek-V3:inference/model.py.
    package static let deepSeek = Architecture(
        name: "DeepSeek-V3", modelTypes: ["deepseek_v3", "deepseek_v2", "kimi_k2"],
        names: deepSeekNames,
        selectionBias: "model.layers.#.mlp.gate.e_score_correction_bias",
        fused: deepSeekFused,
        folds: deepSeekFolds,
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*mlp.gate$", "re:.*norm$", "re:.*eh_proj$", "re:.*shared_head.*"],
        wiresFP8Exemptions: true,
        oracle: "DeepseekV3ForCausalLM",
        configuration: { try deepSeekConfiguration($0, $1) })

    static let deepSeekNames: [ModuleRole: String] = [
        .embedding: "model.embed_tokens", .finalNorm: "model.norm", .head: "lm_head",
        .inputNorm: "model.layers.#.input_layernorm", .postAttentionNorm: "model.layers.#.post_attention_layernorm",
        .query: "model.layers.#.self_attn.q_proj", .queryDown: "model.layers.#.self_attn.q_a_proj",
        .queryLatentNorm: "model.layers.#.self_attn.q_a_layernorm", .queryUp: "model.layers.#.self_attn.q_b_proj",
        .keyValueDown: "model.layers.#.self_attn.kv_a_proj_with_mqa", .keyValueNorm: "model.layers.#.self_attn.kv_a_layernorm",
        .keyValueUp: "model.layers.#.self_attn.kv_b_proj", .output: "model.layers.#.self_attn.o_proj",
        .indexerQuery: "model.layers.#.self_attn.indexer.wq_b", .indexerKey: "model.layers.#.self_attn.indexer.wk",
        .indexerKeyNorm: "model.layers.#.self_attn.indexer.k_norm",
        .indexerHeadWeights: "model.layers.#.self_attn.indexer.weights_proj", .rotaryFrequencies: "model.layers.#.self_attn.rotary_emb",
        .gate: "model.layers.#.mlp.gate_proj", .up: "model.layers.#.mlp.up_proj", .down: "model.layers.#.mlp.down_proj",
        .expertGate: "model.layers.#.mlp.experts.#.gate_proj", .expertUp: "model.layers.#.mlp.experts.#.up_proj",
        .expertDown: "model.layers.#.mlp.experts.#.down_proj",
        .sharedGate: "model.layers.#.mlp.shared_experts.gate_proj", .sharedUp: "model.layers.#.mlp.shared_experts.up_proj",
        .sharedDown: "model.layers.#.mlp.shared_experts.down_proj",
        .router: "model.layers.#.mlp.gate",
        .predictionJoin: "model.layers.#.eh_proj", .predictionEmbeddingNorm: "model.layers.#.enorm",
        .predictionStateNorm: "model.layers.#.hnorm", .predictionEmbedding: "model.layers.#.embed_tokens",
        .predictionNorm: "model.layers.#.shared_head.norm", .predictionHead: "model.layers.#.shared_head.head",
    ]

    static let deepSeekFused = [
        FusedModules("fused_qkv_a_proj", [.queryDown, .keyValueDown], sharesRange: .always),
        FusedModules("gate_up_proj", [.gate, .up], sharesRange: .always),
        FusedModules("gate_up_proj", [.sharedGate, .sharedUp], sharesRange: .byModelOpt),
        FusedModules("gate_up_proj", [.expertGate, .expertUp], sharesRange: .byModelOpt),
    ]

    // casper-hansen/AutoAWQ:awq/models/deepseek_v3.py, vllm-project/llm-compressor:modifiers/transform/awq/mappings.py. The norm before a mixture of
    // experts is left alone here: it leads into the router as well. An indexer reads the same inputs, and is not scaled.
    static let deepSeekFolds = [
        Fold(.inputNorm, into: [.queryDown, .query, .keyValueDown], beside: [.indexerKey, .indexerHeadWeights]),
        Fold(.queryLatentNorm, into: [.queryUp], beside: [.indexerQuery]),
        Fold(.keyValueNorm, into: [.keyValueUp]),
        Fold(.postAttentionNorm, into: [.gate, .up], beside: [.router, .sharedGate]),
        Fold(.up, into: [.down]), Fold(.expertUp, into: [.expertDown]), Fold(.sharedUp, into: [.sharedDown]),
    ]

    static let deepSeekFields: Set<String> = [
        "model_type", "hidden_size", "num_hidden_layers", "first_k_dense_replace", "num_attention_heads", "num_key_value_heads", "q_lora_rank",
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size", "moe_intermediate_size", "vocab_size",
        "rms_norm_eps", "num_nextn_predict_layers", "n_routed_experts", "num_experts_per_tok", "n_group", "topk_group", "n_shared_experts",
        "norm_topk_prob", "routed_scaling_factor", "scoring_func", "topk_method", "rope_parameters", "rope_scaling", "rope_theta",
        "max_position_embeddings", "attention_bias", "rope_interleave", "tie_word_embeddings", "hidden_act", "moe_layer_freq",
    ]

    /// - Parameters:
    ///   - others: fields that a family with the same code reads beside these.
    ///   - rotaryFields: such fields in the description of the rotation.
    ///   - scoring: what such a family's gate is called.
    static func deepSeekConfiguration(
        _ config: ConfigurationReader, _ architecture: Architecture, others: Set<String> = [], rotaryFields: Set<String> = [],
        scoring: String = "sigmoid"
    ) throws -> ModelConfiguration {
        let isV2 = config.root["model_type"]?.string == "deepseek_v2"
        try config.only("hidden_act", [.string("silu"), .string("swish")])
        try config.only("moe_layer_freq", [.int(1)])
        try config.only("mlp_bias", [.bool(false)])
        // The gates that DeepSeek's own code has.
        try config.only("scoring_func", [.string(isV2 ? "softmax" : scoring)])
        try config.only("topk_method", (isV2 ? ["greedy", "group_limited_greedy"] : ["noaux_tc"]).map { .string($0) })
        if isV2 {
            try config.only("rope_interleave", [.bool(true)])
            // DeepSeek's code and vLLM norm the weights then, transformers does not.
            try config.only("norm_topk_prob", [.bool(false)])
        }
        if let heads = config.root["num_attention_heads"], let keys = config.root["num_key_value_heads"], keys != .null, keys != heads {
            throw ArchitectureFailure.badField(
                "num_key_value_heads", reason: "is not num_attention_heads; latent attention has one key for each head")
        }
        try config.refuseOthers(than: deepSeekFields.union(others))
        let hasBias = try config.flag("attention_bias") ?? false
        let tiesHead = try config.flag("tie_word_embeddings") ?? false
        let hiddenSize = try config.required("hidden_size")
        let layers = try config.required("num_hidden_layers")
        let denseLayers = try config.optional("first_k_dense_replace") ?? 0
        let heads = try config.required("num_attention_heads")
        let latent = ModelConfiguration.Attention.Latent(
            queryRank: try config.optional("q_lora_rank").flatMap { $0 > 0 ? $0 : nil }, latentRank: try config.required("kv_lora_rank"),
            nopeSize: try config.required("qk_nope_head_dim"), ropeSize: try config.required("qk_rope_head_dim"),
            valueSize: try config.required("v_head_dim"))
        let (intermediate, expert) = (try config.optional("intermediate_size"), try config.optional("moe_intermediate_size"))
        let vocabulary = try config.required("vocab_size")
        let epsilon = try config.epsilon("rms_norm_eps")
        let modules = try config.optional("num_nextn_predict_layers") ?? 0
        guard latent.ropeSize % 2 == 0 else { throw ArchitectureFailure.badField("qk_rope_head_dim", reason: "is odd") }
        let rotary = try ModelConfiguration.Rotary(config, isInterleaved: config.flag("rope_interleave") ?? true, others: rotaryFields)
        let router = try deepSeekRouter(config, isV2: isV2)
        var model = ModelConfiguration(
            architecture: architecture, hiddenSize: hiddenSize, layers: layers, heads: heads, attention: .latent(latent),
            denseLayers: router == nil ? layers : denseLayers, vocabulary: vocabulary, epsilon: epsilon, router: router, rotary: rotary,
            tiesHead: tiesHead)
        (model.intermediateSize, model.expertSize, model.mtpModules) = (intermediate, expert, modules)
        if hasBias { model.biased = latent.queryRank == nil ? [.keyValueDown, .output] : [.queryDown, .keyValueDown, .output] }
        return model
    }

    private static func deepSeekRouter(_ config: ConfigurationReader, isV2: Bool) throws -> ModelConfiguration.Router? {
        let experts = try config.optional("n_routed_experts") ?? 0
        guard experts > 0 else { return nil }
        let chosen = try config.required("num_experts_per_tok")
        let groups = max(1, try config.optional("n_group") ?? 1), kept = max(1, try config.optional("topk_group") ?? 1)
        let shared = try config.optional("n_shared_experts") ?? 0
        let method = config.root["topk_method"]?.string ?? (isV2 ? "greedy" : "noaux_tc")
        if !isV2, config.root["n_group"] == nil || config.root["topk_group"] == nil {
            throw ArchitectureFailure.missingField("n_group or topk_group")
        }
        let router = ModelConfiguration.Router(
            experts: experts, expertsPerToken: chosen, groups: groups, keptGroups: kept,
            scoring: isV2 ? .softmax : .sigmoid,
            groupScore: method == "greedy" || groups == 1 ? .none : method == "group_limited_greedy" ? .largest : .twoLargest,
            normalises: try config.flag("norm_topk_prob") ?? !isV2,
            scalingFactor: Float(try isV2 ? config.number("routed_scaling_factor") ?? 1 : config.number(needed: "routed_scaling_factor")),
            hasSelectionBias: !isV2, sharedExperts: shared)
        guard experts % groups == 0, kept <= groups, chosen <= experts,
            router.groupScore == .none || chosen <= experts / groups * kept, router.groupScore != .twoLargest || experts / groups >= 2
        else { throw ArchitectureFailure.badField("n_group", reason: "does not fit the experts") }
        return router
    }
}
