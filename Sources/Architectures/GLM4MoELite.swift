import StrictJSON

extension Architecture {
    /// GLM-4.7-Flash: DeepSeek-V3's latent attention, gate and modules that predict one token more, with one group of experts.
    ///
    /// Source: huggingface/transformers:src/transformers/models/glm4_moe_lite.
    static let glm4MoELite = Architecture(
        name: "GLM-4-MoE-Lite", modelTypes: ["glm4_moe_lite"], names: deepSeekNames, selectionBias: deepSeek.selectionBias, fused: deepSeekFused,
        folds: deepSeekFolds, ignorePatterns: deepSeek.ignorePatterns,
        oracle: "Glm4MoeLiteForCausalLM",
        configuration: { config, architecture in
            var model = try deepSeekConfiguration(
                config, architecture, others: ["mlp_layer_types", "partial_rotary_factor"], rotaryFields: ["partial_rotary_factor"])
            let rope = model.attention.ropeSize
            guard try config.partialRope(rope) == rope else { throw ArchitectureFailure.badField("partial_rotary_factor", reason: "is not 1") }
            _ = try config.number(needed: "rms_norm_eps")
            // transformers takes the second layer for the first mixture where nothing is said.
            model.denseLayers = try config.optional("first_k_dense_replace") ?? 1
            try model.takeLayerTypes(config)
            return model
        })
}
