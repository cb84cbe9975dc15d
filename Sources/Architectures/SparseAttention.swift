import StrictJSON

/// DeepSeek-V3 with an indexer that chooses which tokens a query sees (DeepSeek sparse attention).
extension Architecture {
    /// DeepSeek-V3.2. Source: huggingface/transformers:src/transformers/models/deepseek_v32.
    static let deepSeekV32 = Architecture(
        name: "DeepSeek-V3.2", modelTypes: ["deepseek_v32"], names: deepSeekNames,
        selectionBias: deepSeek.selectionBias, fused: deepSeekFused, folds: deepSeekFolds, ignorePatterns: deepSeek.ignorePatterns,
        wiresFP8Exemptions: true,
        oracle: "DeepseekV32ForCausalLM",
        configuration: { try sparse($0, $1, isInterleaved: false) })

    /// GLM-5, 5.1 and 5.2: the same with one group of experts and plain rotation; from 5.2 on most layers share an indexer's choice.
    /// Source: huggingface/transformers:src/transformers/models/glm_moe_dsa.
    static let glm5 = Architecture(
        name: "GLM-5", modelTypes: ["glm_moe_dsa"], names: deepSeekNames, selectionBias: deepSeek.selectionBias, fused: deepSeekFused,
        folds: deepSeekFolds, ignorePatterns: deepSeek.ignorePatterns,
        oracle: "GlmMoeDsaForCausalLM",
        configuration: { config, architecture in
            try config.only("moe_router_dtype", [.string("float32")])
            _ = try config.number(needed: "rms_norm_eps")
            // transformers turns pairs whatever the field says, vLLM asks it.
            try config.only("indexer_rope_interleave", [.bool(true)])
            var model = try sparse(
                config, architecture, isInterleaved: true,
                others: [
                    "index_share_for_mtp_iteration", "index_skip_topk_offset", "index_topk_freq", "index_topk_pattern", "indexer_rope_interleave",
                    "indexer_types", "moe_router_dtype",
                ])
            model.indexer?.sharingLayers = try sharingLayers(config, layers: model.layers)
            return model
        })

    private static func sparse(
        _ config: ConfigurationReader, _ architecture: Architecture, isInterleaved: Bool, others: Set<String> = []
    ) throws -> ModelConfiguration {
        // transformers turns pairs whatever the field says.
        try config.only("rope_interleave", [.bool(true)])
        var model = try deepSeekConfiguration(
            config, architecture, others: others.union(["index_topk", "index_head_dim", "index_n_heads", "mlp_layer_types", "layer_types"]))
        let indexer = ModelConfiguration.Indexer(
            keptTokens: try config.required("index_topk"), heads: try config.required("index_n_heads"),
            headSize: try config.required("index_head_dim"), isInterleaved: isInterleaved)
        guard case .latent(let latent) = model.attention, latent.queryRank != nil else {
            throw ArchitectureFailure.badField("q_lora_rank", reason: "is missing, and the indexer's queries are made of it")
        }
        guard indexer.headSize >= latent.ropeSize else {
            throw ArchitectureFailure.badField("index_head_dim", reason: "is below qk_rope_head_dim, and so much of it turns")
        }
        model.indexer = indexer
        try model.takeLayerTypes(config)
        // transformers 5.17 writes the first name, 5.24 the second.
        for type in config.root["layer_types"]?.array ?? []
        where type != .string("deepseek_sparse_attention") && type != .string("indexed_attention") {
            throw ArchitectureFailure.badField("layer_types", reason: "holds \(type.text(pretty: false)), which this forward pass does not have")
        }
        return model
    }

    /// Layers that see what an earlier layer's indexer chose: by name, by letter, or every layer but one in `index_topk_freq`.
    /// Source: huggingface/transformers:models/glm_moe_dsa/configuration_glm_moe_dsa.py.
    private static func sharingLayers(_ config: ConfigurationReader, layers: Int) throws -> [Int] {
        let shares: [Bool]
        if let types = config.root["indexer_types"], types != .null {
            shares = try kinds(types.array?.map { $0.string ?? "" }, of: "indexer_types", full: "full", shared: "shared")
        } else if let pattern = config.root["index_topk_pattern"], pattern != .null {
            shares =
                try pattern.array.map { try kinds($0.map { $0.string ?? "" }, of: "index_topk_pattern", full: "full", shared: "shared") }
                ?? kinds(pattern.string?.map { String($0) }, of: "index_topk_pattern", full: "F", shared: "S")
        } else {
            let every = max(1, try config.optional("index_topk_freq") ?? 1), offset = try config.optional("index_skip_topk_offset") ?? 2
            shares = (0..<layers).map { max(0, $0 - offset + 1) % every != 0 }
        }
        guard shares.count == layers else {
            throw ArchitectureFailure.badField("indexer_types", reason: "or index_topk_pattern speaks of \(shares.count) layers of \(layers)")
        }
        guard shares.first != true else {
            throw ArchitectureFailure.badField("indexer_types", reason: "lets the first layer share a choice that no layer before it made")
        }
        return shares.indices.filter { shares[$0] }
    }

    private static func kinds(_ words: [String]?, of field: String, full: String, shared: String) throws -> [Bool] {
        guard let words else { throw ArchitectureFailure.badField(field, reason: "is no list") }
        return try words.map { word in
            guard word == full || word == shared else { throw ArchitectureFailure.badField(field, reason: "holds \(word)") }
            return word == shared
        }
    }
}
