import StrictJSON

extension Architecture {
    /// Llama 2 and 3.x, and what shares their code: grouped-query attention, dense networks.
    ///
    /// Source: huggingface/transformers:src/transformers/models/llama.
    static let llama = Architecture(
        name: "Llama", modelTypes: ["llama"], names: NameTable.joined(NameTable.groupedAttention, NameTable.dense), fused: FusedModules.grouped,
        folds: Fold.grouped, ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*norm$"],
        oracle: "LlamaForCausalLM",
        configuration: { config, architecture in
            try config.only("mlp_bias", [.bool(false)])
            try config.refuseOthers(than: ConfigurationReader.groupedFields.union(["mlp_bias", "pretraining_tp"]))
            return try config.grouped(architecture, norms: .none)
        })
}
