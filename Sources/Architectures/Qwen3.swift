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
            try config.refuseWindows()
            try config.refuseOthers(than: ConfigurationReader.groupedFields.union(ConfigurationReader.windowFields))
            return try config.grouped(architecture, norms: .perHead)
        })
}
