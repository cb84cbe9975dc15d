import StrictJSON

extension Architecture {
    /// Qwen3, dense (0.6B to 32B): grouped-query attention with normalised heads.
    ///
    /// Source: huggingface/transformers:src/transformers/models/qwen3.
    static let qwen3 = Architecture(
        name: "Qwen3", modelTypes: ["qwen3"],
        names: NameTable.joined(NameTable.groupedAttention, NameTable.attentionNorms, NameTable.dense), fused: FusedModules.grouped,
        folds: Fold.grouped, ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*norm$"],
        oracle: "Qwen3ForCausalLM",
        configuration: { config, architecture in
            try config.only("use_sliding_window", [.bool(false)])
            for type in config.root["layer_types"]?.array ?? [] where type != .string("full_attention") {
                throw ArchitectureFailure.badField("layer_types", reason: "holds \(type.text(pretty: false)), which this forward pass does not have")
            }
            try config.refuseOthers(
                than: ConfigurationReader.groupedFields.union(["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"]))
            return try config.grouped(architecture, norms: .perHead)
        })
}
