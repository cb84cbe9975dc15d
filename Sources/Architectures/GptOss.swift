import StrictJSON

extension Architecture {
    /// gpt-oss: grouped-query attention with biases and sinks, every second layer through a window; experts whose gate and up projections are one
    /// matrix with their rows interleaved, chosen by a softmax over the chosen, with clamped activations.
    ///
    /// Source: huggingface/transformers:src/transformers/models/gpt_oss.
    static let gptOss = Architecture(
        name: "gpt-oss", modelTypes: ["gpt_oss"],
        names: NameTable.joined(
            NameTable.groupedAttention,
            [
                .router: "model.layers.#.mlp.router", .expertGateUp: "model.layers.#.mlp.experts.#.gate_up_proj",
                .expertDown: "model.layers.#.mlp.experts.#.down_proj",
            ]),
        sinks: "model.layers.#.self_attn.sinks", fused: [FusedModules("qkv_proj", [.query, .key, .value], sharesRange: .always)],
        folds: [Fold(.inputNorm, into: [.query, .key, .value])],
        ignorePatterns: ["lm_head", "re:.*embed_tokens$", "re:.*mlp.router$", "re:.*norm$"],
        oracle: "GptOssForCausalLM",
        configuration: { config, architecture in
            try config.refuseOthers(
                than: ConfigurationReader.groupedFields.union([
                    "num_local_experts", "num_experts", "num_experts_per_tok", "experts_per_token", "initial_context_length", "sliding_window",
                    "layer_types", "swiglu_limit", "swiglu_alpha",
                ]))
            // transformers takes a stretched rotation where none is described, and 64 for a head; here both must be said.
            guard config.root["rope_parameters"]?.object != nil || config.root["rope_scaling"]?.object != nil else {
                throw ArchitectureFailure.missingField("rope_scaling")
            }
            let places = [config.root, config.root["rope_parameters"], config.root["rope_scaling"]]
            guard places.contains(where: { $0?["rope_theta"]?.double != nil }) else { throw ArchitectureFailure.missingField("rope_theta") }
            _ = try config.required("head_dim")
            var model = try config.grouped(architecture, norms: .none)
            if try config.number("rms_norm_eps") == nil { model.epsilon = 1e-5 }
            _ = try config.required(either: "num_experts_per_tok", "experts_per_token")
            model.router = try config.router(
                experts: config.required(either: "num_local_experts", "num_experts"), scoring: .softmaxOfChosen, normalises: false,
                hasSelectionBias: false)
            // The width of an expert; there is no dense network.
            model.expertSize = model.intermediateSize
            model.denseLayers = 0
            let hasAttentionBiases = try config.flag("attention_bias") ?? true
            model.biased = (hasAttentionBiases ? [.query, .key, .value, .output] : []) + [.router, .expertGateUp, .expertDown]
            let (alpha, limit) = (Float(try config.number("swiglu_alpha") ?? 1.702), Float(try config.number("swiglu_limit") ?? 7))
            guard limit > 0, limit.isFinite, alpha.isFinite else {
                throw ArchitectureFailure.badField("swiglu_limit", reason: "or swiglu_alpha is \(limit) or \(alpha)")
            }
            model.activation = .clamped(alpha: alpha, limit: limit)
            model.window = try config.window(layers: model.layers)
            return model
        })
}

extension ConfigurationReader {
    /// Layers that see no further than a window: those that `layer_types` says, or every second from the first.
    fileprivate func window(layers: Int) throws -> ModelConfiguration.Window? {
        guard root["sliding_window"] != .null else { throw ArchitectureFailure.badField("sliding_window", reason: "is null") }
        let size = try optional("sliding_window") ?? 128
        guard size > 0 else { throw ArchitectureFailure.badField("sliding_window", reason: "is 0") }
        guard let value = root["layer_types"], value != .null else { return .init(size: size, layers: (0..<layers).filter { $0 % 2 == 0 }) }
        let types = value.array ?? []
        guard types.count == layers, types.allSatisfy({ [.string("sliding_attention"), .string("full_attention")].contains($0) }) else {
            throw ArchitectureFailure.badField("layer_types", reason: "does not say sliding_attention or full_attention of each of \(layers) layers")
        }
        let windowed = types.indices.filter { types[$0] == .string("sliding_attention") }
        return windowed.isEmpty ? nil : .init(size: size, layers: windowed)
    }
}
