import Checkpoints

/// Where the scales that AWQ gives the inputs of a linear weight are undone exactly: a norm, or the rows of another linear weight, that lead into
/// such weights and nothing else.
///
/// Reference: casper-hansen/AutoAWQ:awq/models/deepseek_v3.py, vllm-project/llm-compressor:modifiers/transform/awq/mappings.py. The norm
/// before a mixture of experts is left alone here: it leads into the router as well.
public enum AWQFolding {
    /// The modules that a norm's output leads into; nil if it is none of those that scales can be folded into.
    public static func consumers(of norm: String) -> [String]? {
        let name = WeightName.leaf(norm)
        let parent = WeightName.module(norm)
        switch name {
        // An indexer reads the same inputs, and is not scaled.
        case "input_layernorm":
            return ["q_a_proj", "q_proj", "kv_a_proj_with_mqa", "k_proj", "v_proj", "indexer.wk", "indexer.weights_proj"].map {
                "\(parent).self_attn.\($0)"
            }
        case "q_a_layernorm": return ["q_b_proj", "indexer.wq_b"].map { "\(parent).\($0)" }
        case "kv_a_layernorm": return ["\(parent).kv_b_proj"]
        case "post_attention_layernorm": return ["gate_proj", "up_proj", "gate", "shared_experts.gate_proj"].map { "\(parent).mlp.\($0)" }
        default: return nil
        }
    }

    /// The norm that leads into a module.
    public static func norm(before module: String) -> String? {
        let parent = WeightName.module(module)
        switch WeightName.leaf(module) {
        case "q_a_proj", "q_proj", "kv_a_proj_with_mqa": return "\(WeightName.module(String(parent))).input_layernorm"
        case "q_b_proj": return "\(parent).q_a_layernorm"
        case "kv_b_proj": return "\(parent).kv_a_layernorm"
        case "gate_proj", "up_proj":
            return parent.hasSuffix(".mlp") ? "\(parent.dropLast(".mlp".count)).post_attention_layernorm" : nil
        default: return nil
        }
    }

    /// The linear weight whose rows are the columns of a module's weight.
    public static func rows(before module: String) -> String? {
        WeightName.leaf(module) == "down_proj" ? "\(WeightName.module(module)).up_proj" : nil
    }
}
