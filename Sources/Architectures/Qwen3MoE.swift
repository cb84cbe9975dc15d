import StrictJSON

extension Architecture {
    /// Qwen3-MoE (30B-A3B, 235B-A22B, Coder): grouped-query attention with normalised heads, a softmax over all experts, none shared.
    ///
    /// Source: huggingface/transformers:src/transformers/models/qwen3_moe.
    static let qwen3MoE = Architecture(
        name: "Qwen3-MoE", modelTypes: ["qwen3_moe"],
        names: NameTable.joined(NameTable.groupedAttention, NameTable.attentionNorms, NameTable.dense, NameTable.mixture),
        fused: FusedModules.grouped, folds: Fold.grouped,
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*mlp.gate$", "re:.*norm$"],
        // vllm-project/vllm:vllm/model_executor/models/qwen3_moe.py (`GateLinear` with the `quant_config`).
        listsRouters: true,
        oracle: "Qwen3MoeForCausalLM",
        configuration: { config, architecture in
            try config.only("use_sliding_window", [.bool(false)])
            try config.only("use_qk_norm", [.bool(true)])
            try config.only("shared_expert_intermediate_size", [.int(0)])
            try config.refuseOthers(
                than: ConfigurationReader.groupedFields.union([
                    "moe_intermediate_size", "num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "decoder_sparse_step",
                    "mlp_only_layers", "use_sliding_window", "shared_expert_intermediate_size", "use_qk_norm",
                    // Of windows that are not used.
                    "sliding_window", "max_window_layers",
                ]))
            var model = try config.grouped(architecture, norms: .perHead)
            // transformers 5 writes the second name.
            model.router = try config.router(
                experts: config.required(either: "num_experts", "num_local_experts"), scoring: .softmax,
                normalises: config.flag("norm_topk_prob") ?? false, hasSelectionBias: false)
            model.expertSize = try config.optional("moe_intermediate_size")
            // A mixture in every `step`-th layer, but for those that are named.
            let step = try config.optional("decoder_sparse_step") ?? 1
            let named = config.root["mlp_only_layers"]?.array ?? []
            let dense = named.compactMap(\.int)
            guard step > 0, dense.count == named.count else { throw ArchitectureFailure.badField("mlp_only_layers", reason: "holds no layers") }
            model.denseLayers = 0
            model.otherDenseLayers = (0..<min(model.layers, 1 << 12)).filter { dense.contains($0) || ($0 + 1) % step != 0 }
            return model
        })
}
