import StrictJSON

/// DeepSeek-V3 with an indexer that chooses which tokens a query sees (DeepSeek sparse attention).
extension Architecture {
    /// DeepSeek-V3.2. Source: huggingface/transformers:src/transformers/models/deepseek_v32.
    static let deepSeekV32 = Architecture(
        name: "DeepSeek-V3.2", modelTypes: ["deepseek_v32"], names: deepSeekNames,
        selectionBias: deepSeek.selectionBias, fused: deepSeekFused, folds: deepSeekFolds, ignorePatterns: deepSeek.ignorePatterns,
        wiresFP8Exemptions: true, limit: keptTokensLimit, configuration: { try sparse($0, $1) })

    /// GLM-5, 5.1 and 5.2: the same with one group of experts and plain rotation; from 5.2 on most layers share an indexer's choice.
    /// Source: huggingface/transformers:src/transformers/models/glm_moe_dsa.
    static let glm5 = Architecture(
        name: "GLM-5", modelTypes: ["glm_moe_dsa"], names: deepSeekNames, selectionBias: deepSeek.selectionBias, fused: deepSeekFused,
        folds: deepSeekFolds, ignorePatterns: deepSeek.ignorePatterns, limit: keptTokensLimit,
        configuration: { config, architecture in
            try config.only("moe_router_dtype", [.string("float32")])
            return try sparse(
                config, architecture,
                others: [
                    "index_share_for_mtp_iteration", "index_skip_topk_offset", "index_topk_freq", "index_topk_pattern", "indexer_rope_interleave",
                    "indexer_types", "moe_router_dtype",
                ])
        })

    private static let keptTokensLimit = "up to index_topk tokens"

    private static func sparse(_ config: ConfigurationReader, _ architecture: Architecture, others: Set<String> = []) throws -> ModelConfiguration {
        var model = try deepSeekConfiguration(
            config, architecture, others: others.union(["index_topk", "index_head_dim", "index_n_heads", "mlp_layer_types", "layer_types"]))
        model.keptTokens = try config.required("index_topk")
        for (layer, type) in (config.root["mlp_layer_types"]?.array ?? []).enumerated()
        where type != .string(layer < model.denseLayers ? "dense" : "sparse") {
            throw ArchitectureFailure.badField("mlp_layer_types", reason: "and first_k_dense_replace say different things of layer \(layer)")
        }
        for type in config.root["layer_types"]?.array ?? [] where type != .string("deepseek_sparse_attention") {
            throw ArchitectureFailure.badField("layer_types", reason: "holds \(type.text(pretty: false)), which this forward pass does not have")
        }
        return model
    }
}
