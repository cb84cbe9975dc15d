import StrictJSON

extension Architecture {
    /// Hy3: Qwen3's attention, DeepSeek-V3's gate with one group, shared experts. The module that predicts one token more is converted and not run: no
    /// reference implementation of it was at hand.
    ///
    /// Sources: huggingface/transformers:src/transformers/models/hy_v3 and conversion_mapping.py (the stored names), vllm-project/vllm:models/hy_v3.py.
    static let hunyuanV3 = Architecture(
        name: "Hy3", modelTypes: ["hy_v3"],
        names: NameTable.joined(
            NameTable.groupedAttention, NameTable.attentionNorms, NameTable.dense,
            [
                .router: "model.layers.#.mlp.router.gate", .expertGate: "model.layers.#.mlp.experts.#.gate_proj",
                .expertUp: "model.layers.#.mlp.experts.#.up_proj", .expertDown: "model.layers.#.mlp.experts.#.down_proj",
                .sharedGate: "model.layers.#.mlp.shared_mlp.gate_proj", .sharedUp: "model.layers.#.mlp.shared_mlp.up_proj",
                .sharedDown: "model.layers.#.mlp.shared_mlp.down_proj",
                .predictionJoin: "model.layers.#.eh_proj", .predictionEmbeddingNorm: "model.layers.#.enorm",
                .predictionStateNorm: "model.layers.#.hnorm", .predictionNorm: "model.layers.#.final_layernorm",
            ]),
        selectionBias: "model.layers.#.mlp.expert_bias", fused: FusedModules.grouped, folds: Fold.grouped,
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*mlp.router.gate$", "re:.*norm$", "re:.*eh_proj$"],
        oracle: "HYV3ForCausalLM",
        configuration: { config, architecture in
            for field in ["qk_norm", "route_norm", "moe_router_use_sigmoid", "moe_router_enable_expert_bias"] {
                try config.only(field, [.bool(true)])
            }
            try config.only("mlp_bias", [.bool(false)])
            try config.refuseOthers(
                than: ConfigurationReader.groupedFields.union([
                    "num_experts", "num_experts_per_tok", "num_shared_experts", "moe_intermediate_size", "expert_hidden_dim", "router_scaling_factor",
                    "mlp_layer_types", "first_k_dense_replace", "num_nextn_predict_layers", "qk_norm", "route_norm", "moe_router_use_sigmoid",
                    "moe_router_enable_expert_bias", "mlp_bias",
                    // In which type sums are taken: all of them are F32 here.
                    "enable_moe_fp32_combine", "enable_lm_head_fp32", "enable_attention_fp32_softmax", "use_grouped_mm",
                ]))
            var model = try config.grouped(architecture, norms: .perHead)
            if try config.number("rms_norm_eps") == nil { model.epsilon = 1e-5 }
            let describesBase = [config.root, config.root["rope_parameters"], config.root["rope_scaling"]].contains { $0?["rope_theta"] != nil }
            if !describesBase { model.rotary.base = 11_158_840 }
            // Readers do not agree about what is meant where these are not said.
            guard let factor = try config.number("router_scaling_factor") else { throw ArchitectureFailure.missingField("router_scaling_factor") }
            model.router = try config.router(
                experts: config.required("num_experts"), scoring: .sigmoid, normalises: true, hasSelectionBias: true,
                scalingFactor: factor, sharedExperts: config.required("num_shared_experts"))
            model.expertSize = try config.required(either: "moe_intermediate_size", "expert_hidden_dim")
            (model.denseLayers, model.otherDenseLayers) = try config.denseLayers(of: model.layers)
            return model
        })
}

extension ConfigurationReader {
    /// Which layers have no experts: `mlp_layer_types` says it of each, `first_k_dense_replace` of the first ones, and where both do they must agree.
    /// Without either it is the first layer, as in transformers, which does not read the second: vLLM does.
    fileprivate func denseLayers(of layers: Int) throws -> (leading: Int, others: [Int]) {
        let leading = try optional("first_k_dense_replace")
        guard let dense = try denseLayerTypes(of: layers) else { return (min(leading ?? 1, layers), []) }
        guard leading.map({ dense.others.isEmpty && dense.leading == min($0, layers) }) ?? true else {
            throw ArchitectureFailure.badField("mlp_layer_types", reason: "and first_k_dense_replace say different things")
        }
        return dense
    }
}
