/// The canonical names of a DeepSeek-V2/V3-style model's weights, from its configuration.
package struct ExpectedWeights {
    package private(set) var required: [String] = []
    /// Names that released checkpoints have or lack without harm.
    package private(set) var optional: [String] = []

    package init(_ c: ModelConfiguration) {
        required = ["model.embed_tokens.weight", "model.norm.weight"]
        // A tied head may be stored all the same.
        if c.tiesHead { optional.append("lm_head.weight") } else { required.append("lm_head.weight") }
        for layer in 0..<min(c.layers, 1 << 12) {
            required += Self.layer(c, layer)
            optional.append("model.layers.\(layer).self_attn.rotary_emb.inv_freq")
        }
        for module in 0..<min(c.mtpModules, 16) {
            let prefix = "model.layers.\(c.layers + module)."
            // Releases without the module exist although the configuration counts it; `verify` against the source names a loss.
            optional +=
                Self.layer(c, c.layers + module) + [
                    "\(prefix)eh_proj.weight", "\(prefix)enorm.weight", "\(prefix)hnorm.weight", "\(prefix)embed_tokens.weight",
                    "\(prefix)shared_head.norm.weight", "\(prefix)shared_head.head.weight",
                ]
        }
    }

    private static func layer(_ c: ModelConfiguration, _ number: Int) -> [String] {
        let prefix = "model.layers.\(number)."
        var buffers: [String] = []
        var names = [
            "input_layernorm", "post_attention_layernorm", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm", "self_attn.kv_b_proj",
            "self_attn.o_proj",
        ]
        if c.hasAttentionBias {
            buffers += (c.queryRank == nil ? [] : ["q_a_proj"]).map { "\(prefix)self_attn.\($0).bias" }
            buffers += ["kv_a_proj_with_mqa", "o_proj"].map { "\(prefix)self_attn.\($0).bias" }
        }
        names += c.queryRank == nil ? ["self_attn.q_proj"] : ["self_attn.q_a_proj", "self_attn.q_a_layernorm", "self_attn.q_b_proj"]
        var modules = ["mlp."]
        if let router = c.router, number >= c.denseLayers {
            modules = (0..<min(router.experts, 1 << 14)).map { "mlp.experts.\($0)." } + (router.sharedExperts > 0 ? ["mlp.shared_experts."] : [])
            names.append("mlp.gate")
            if router.hasSelectionBias { buffers.append(prefix + "mlp.gate.e_score_correction_bias") }
        }
        for module in modules { names += ["gate_proj", "up_proj", "down_proj"].map { module + $0 } }
        return names.map { prefix + $0 + ".weight" } + buffers
    }
}
