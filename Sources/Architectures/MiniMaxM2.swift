import StrictJSON

extension Architecture {
    /// MiniMax-M2, M2.1, M2.5, M2.7: grouped-query attention with norms over all heads, half of a head turns; a sigmoid gate with a bias of choice, experts
    /// in every layer, none shared.
    ///
    /// Source: huggingface/transformers:src/transformers/models/minimax_m2.
    static let miniMaxM2 = Architecture(
        name: "MiniMax-M2", modelTypes: ["minimax_m2"],
        names: NameTable.joined(
            NameTable.groupedAttention, NameTable.attentionNorms,
            [
                .router: "model.layers.#.block_sparse_moe.gate", .expertGate: "model.layers.#.block_sparse_moe.experts.#.w1",
                .expertUp: "model.layers.#.block_sparse_moe.experts.#.w3", .expertDown: "model.layers.#.block_sparse_moe.experts.#.w2",
            ]),
        selectionBias: "model.layers.#.block_sparse_moe.e_score_correction_bias", fused: FusedModules.grouped, folds: Fold.grouped,
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*block_sparse_moe.gate$", "re:.*norm$"],
        oracle: "MiniMaxM2ForCausalLM",
        configuration: { config, architecture in
            try config.only("scoring_func", [.string("sigmoid")])
            try config.only("use_routing_bias", [.bool(true)])
            try config.only("use_qk_norm", [.bool(true)])
            try config.only("qk_norm_type", [.string("per_layer")])
            try config.only("shared_intermediate_size", [.int(0)])
            try config.only("attention_bias", [.bool(false)])
            let places = [config.root, config.root["rope_parameters"], config.root["rope_scaling"]]
            guard places.contains(where: { $0?["rope_theta"]?.double != nil }) else { throw ArchitectureFailure.missingField("rope_theta") }
            // 1 is attention over everything.
            for type in config.root["attn_type_list"]?.array ?? [] where type != .int(1) {
                throw ArchitectureFailure.badField(
                    "attn_type_list", reason: "holds \(type.text(pretty: false)), which this forward pass does not have")
            }
            try config.refuseOthers(
                than: ConfigurationReader.groupedFields.union([
                    "num_local_experts", "num_experts", "num_experts_per_tok", "scoring_func", "use_routing_bias", "use_qk_norm", "qk_norm_type",
                    "shared_intermediate_size", "attn_type_list", "rotary_dim", "partial_rotary_factor", "router_jitter_noise",
                    // Modules that predict further tokens are in no release.
                    "use_mtp", "num_mtp_modules", "mtp_transformer_layers",
                ]))
            var model = try config.grouped(
                architecture, norms: .overHeads,
                ropeSize: { headSize in
                    guard let channels = try config.optional("rotary_dim") else { return try config.partialRope(headSize) }
                    let isShared = [config.root, config.root["rope_parameters"]].contains { ($0?["partial_rotary_factor"] ?? .null) != .null }
                    // transformers makes a share of it and cuts the product off.
                    let turned = isShared ? try config.partialRope(headSize) : Int(Double(headSize) * (Double(channels) / Double(headSize)))
                    guard turned == channels else {
                        throw ArchitectureFailure.badField(
                            "rotary_dim", reason: "is \(channels), and \(turned) channels turn by partial_rotary_factor")
                    }
                    return channels
                }, rotaryFields: ["partial_rotary_factor"])
            model.router = try config.router(
                experts: config.required(either: "num_local_experts", "num_experts"), scoring: .sigmoid, normalises: true, hasSelectionBias: true)
            // The width of an expert; there is no dense network.
            model.expertSize = model.intermediateSize
            model.denseLayers = 0
            return model
        })
}
