import StrictJSON

extension Architecture {
    /// Qwen2 and Qwen2.5, dense (0.5B to 72B, Coder, Math, and what was distilled from R1 into them): Llama's arithmetic, with biases of queries, keys
    /// and values.
    ///
    /// Source: huggingface/transformers:src/transformers/models/qwen2.
    static let qwen2 = Architecture(
        name: "Qwen2", modelTypes: ["qwen2"], names: NameTable.joined(NameTable.groupedAttention, NameTable.dense), fused: FusedModules.grouped,
        folds: Fold.grouped, ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*norm$"],
        oracle: "Qwen2ForCausalLM",
        configuration: { config, architecture in
            try config.refuseWindows()
            // Biases are not a matter of the configuration here.
            try config.only("attention_bias", [.bool(true)])
            try config.refuseOthers(than: ConfigurationReader.groupedFields.union(ConfigurationReader.windowFields))
            var model = try config.grouped(architecture, norms: .none)
            model.biased = [.query, .key, .value]
            return model
        })
}
