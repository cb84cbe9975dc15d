import StrictJSON

extension Architecture {
    /// Mistral Large 3 and Small 4: DeepSeek-V3's latent attention and experts, a softmax gate without a bias, and queries that grow with the
    /// position beyond the original length.
    ///
    /// Sources: huggingface/transformers:src/transformers/models/mistral4; vllm-project/vllm:vllm/transformers_utils/configs/mistral.py, which reads
    /// Large 3 as a DeepSeek-V3 with these differences.
    package static let mistral4 = Architecture(
        name: "Mistral 4", modelTypes: ["mistral4"], names: deepSeekNames, fused: deepSeekFused, folds: deepSeekFolds,
        ignorePatterns: deepSeek.ignorePatterns, carried: ["vision_encoder", "vision_language_adapter", "patch_merger", "pre_mm_projector_norm"],
        // conversion_mapping.py of 5.24 has no entry for it.
        needsStacks: true,
        oracle: "Mistral4ForCausalLM",
        configuration: { config, architecture in
            // transformers has a YaRN of its own where nothing is said.
            guard let description = ["rope_parameters", "rope_scaling"].lazy.compactMap({ config.root[$0]?.object }).first else {
                throw ArchitectureFailure.missingField("rope_parameters")
            }
            var model = try deepSeekConfiguration(
                config, architecture, others: ["vision_encoder"],
                rotaryFields: ["llama_4_scaling_beta", "partial_rotary_factor", "max_position_embeddings"], scoring: "softmax")
            let attention = model.attention
            let share = try config.partialRope(attention.headSize, fallback: Double(attention.ropeSize) / Double(attention.headSize))
            guard share == attention.ropeSize else {
                throw ArchitectureFailure.badField("partial_rotary_factor", reason: "is not qk_rope_head_dim among all channels of a head")
            }
            model.router?.scoring = .softmax
            model.router?.hasSelectionBias = false
            if let value = description["llama_4_scaling_beta"], value != .null {
                guard let beta = value.double, beta.isFinite, let length = model.rotary.yarn?.originalLength else {
                    throw ArchitectureFailure.badField("llama_4_scaling_beta", reason: "is no number, or no original length stands beside it")
                }
                model.rotary.queryGrowth = .init(beta: beta, length: length)
            }
            return model
        })
}
