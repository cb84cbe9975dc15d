import StrictJSON

extension Architecture {
    /// GLM-4.5, 4.6, 4.7 and Air: grouped-query attention of which half of a head turns, DeepSeek-V3's gate and shared expert, its modules that predict one
    /// token more.
    ///
    /// Source: huggingface/transformers:src/transformers/models/glm4_moe.
    static let glm4MoE = Architecture(
        name: "GLM-4-MoE", modelTypes: ["glm4_moe"],
        names: NameTable.joined(
            NameTable.groupedAttention, NameTable.attentionNorms, NameTable.dense, NameTable.mixture, NameTable.shared,
            [
                .predictionJoin: "model.layers.#.eh_proj", .predictionEmbeddingNorm: "model.layers.#.enorm",
                .predictionStateNorm: "model.layers.#.hnorm", .predictionEmbedding: "model.layers.#.embed_tokens",
                .predictionNorm: "model.layers.#.shared_head.norm", .predictionHead: "model.layers.#.shared_head.head",
            ]),
        selectionBias: "model.layers.#.mlp.gate.e_score_correction_bias", fused: FusedModules.grouped, folds: Fold.grouped,
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*mlp.gate$", "re:.*norm$", "re:.*eh_proj$", "re:.*shared_head.*"],
        oracle: "Glm4MoeForCausalLM",
        configuration: { config, architecture in
            try config.refuseOthers(
                than: ConfigurationReader.groupedFields.union([
                    "moe_intermediate_size", "n_routed_experts", "num_local_experts", "n_shared_experts", "num_experts_per_tok", "n_group",
                    "topk_group", "norm_topk_prob", "routed_scaling_factor", "first_k_dense_replace", "use_qk_norm", "partial_rotary_factor",
                    "num_nextn_predict_layers", "num_mtp_layers",
                ]))
            _ = try config.number(needed: "rms_norm_eps")
            // transformers' own default turns half of a head.
            var model = try config.grouped(
                architecture, norms: config.flag("use_qk_norm") ?? false ? .perHead : .none,
                ropeSize: { try config.partialRope($0, fallback: 0.5) }, rotaryFields: ["partial_rotary_factor"], biased: [.query, .key, .value])
            model.router = try config.router(
                experts: config.required(either: "n_routed_experts", "num_local_experts"), scoring: .sigmoid,
                normalises: config.flag("norm_topk_prob") ?? true, hasSelectionBias: true, groups: config.optional("n_group") ?? 1,
                keptGroups: config.optional("topk_group") ?? 1, scalingFactor: config.number("routed_scaling_factor") ?? 1,
                sharedExperts: config.optional("n_shared_experts") ?? 1)
            model.expertSize = try config.optional("moe_intermediate_size")
            model.denseLayers = try config.optional("first_k_dense_replace") ?? 1
            model.mtpModules = try config.optional("num_nextn_predict_layers") ?? config.optional("num_mtp_layers") ?? 0
            return model
        })
}
