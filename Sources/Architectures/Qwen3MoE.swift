import StrictJSON

extension Architecture {
    /// Qwen3-MoE (30B-A3B, 235B-A22B, Coder): grouped-query attention with normalised heads, a softmax over all experts, none shared.
    ///
    /// Source: huggingface/transformers:src/transformers/models/qwen3_moe.
    static let qwen3MoE = Architecture(
        name: "Qwen3-MoE", modelTypes: ["qwen3_moe"],
        names: [
            .embedding: "model.embed_tokens", .finalNorm: "model.norm", .head: "lm_head",
            .inputNorm: "model.layers.#.input_layernorm", .postAttentionNorm: "model.layers.#.post_attention_layernorm",
            .query: "model.layers.#.self_attn.q_proj", .key: "model.layers.#.self_attn.k_proj", .value: "model.layers.#.self_attn.v_proj",
            .output: "model.layers.#.self_attn.o_proj", .queryHeadNorm: "model.layers.#.self_attn.q_norm",
            .keyHeadNorm: "model.layers.#.self_attn.k_norm", .router: "model.layers.#.mlp.gate",
            .gate: "model.layers.#.mlp.gate_proj", .up: "model.layers.#.mlp.up_proj", .down: "model.layers.#.mlp.down_proj",
            .expertGate: "model.layers.#.mlp.experts.#.gate_proj", .expertUp: "model.layers.#.mlp.experts.#.up_proj",
            .expertDown: "model.layers.#.mlp.experts.#.down_proj",
        ],
        fused: [
            FusedModules("qkv_proj", [.query, .key, .value]),
            FusedModules("gate_up_proj", [.gate, .up], sharesRange: .always),
            FusedModules("gate_up_proj", [.expertGate, .expertUp], sharesRange: .byModelOpt),
        ],
        // casper-hansen/AutoAWQ:awq/models/qwen3_moe.py. The norm before a mixture leads into the router as well; values are shared by several heads,
        // so the output's columns are no rows of theirs.
        folds: [
            Fold(.inputNorm, into: [.query, .key, .value]),
            Fold(.postAttentionNorm, into: [.gate, .up], beside: [.router]),
            Fold(.up, into: [.down]), Fold(.expertUp, into: [.expertDown]),
        ],
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*mlp.gate$", "re:.*norm$"],
        configuration: { config, architecture in
            try config.only("hidden_act", [.string("silu"), .string("swish")])
            try config.only("use_sliding_window", [.bool(false)])
            try config.refuseOthers(than: [
                "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
                "moe_intermediate_size", "vocab_size", "rms_norm_eps", "num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob",
                "decoder_sparse_step",
                "mlp_only_layers", "rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings", "attention_bias",
                "tie_word_embeddings", "hidden_act", "use_sliding_window",
                // Of windows that are not used.
                "sliding_window", "max_window_layers",
            ])
            let hiddenSize = try config.required("hidden_size"), heads = try config.required("num_attention_heads")
            let layers = try config.required("num_hidden_layers")
            let keyHeads = try config.optional("num_key_value_heads") ?? heads
            let headSize = try config.optional("head_dim") ?? hiddenSize / heads
            guard keyHeads > 0, heads % keyHeads == 0 else {
                throw ArchitectureFailure.badField("num_key_value_heads", reason: "does not divide num_attention_heads")
            }
            guard headSize > 0, headSize % 2 == 0 else { throw ArchitectureFailure.badField("head_dim", reason: "is \(headSize)") }
            // transformers 5 writes the second name.
            let experts = try config.required(either: "num_experts", "num_local_experts"), chosen = try config.required("num_experts_per_tok")
            guard chosen <= experts else { throw ArchitectureFailure.badField("num_experts_per_tok", reason: "is more than num_experts") }
            let router = ModelConfiguration.Router(
                experts: experts, expertsPerToken: chosen, groups: 1, keptGroups: 1, scoring: .softmax, groupScore: .none,
                normalises: try config.flag("norm_topk_prob") ?? false, scalingFactor: 1, hasSelectionBias: false, sharedExperts: 0)
            var model = ModelConfiguration(
                architecture: architecture, hiddenSize: hiddenSize, layers: layers, heads: heads,
                attention: .grouped(.init(keyHeads: keyHeads, headSize: headSize, hasHeadNorms: true)), denseLayers: 0,
                vocabulary: try config.required("vocab_size"), epsilon: try config.epsilon("rms_norm_eps"), router: router,
                rotary: try ModelConfiguration.Rotary(config, isInterleaved: false), tiesHead: try config.flag("tie_word_embeddings") ?? false)
            model.intermediateSize = try config.optional("intermediate_size")
            model.expertSize = try config.optional("moe_intermediate_size")
            // A mixture in every `step`-th layer, but for those that are named.
            let step = try config.optional("decoder_sparse_step") ?? 1
            let named = config.root["mlp_only_layers"]?.array ?? []
            let dense = named.compactMap(\.int)
            guard step > 0, dense.count == named.count else { throw ArchitectureFailure.badField("mlp_only_layers", reason: "holds no layers") }
            model.otherDenseLayers = (0..<min(layers, 1 << 12)).filter { dense.contains($0) || ($0 + 1) % step != 0 }
            if try config.flag("attention_bias") ?? false { model.biased = [.query, .key, .value, .output] }
            return model
        })
}
