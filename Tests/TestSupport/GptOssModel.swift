import Recast

/// A small gpt-oss in the forms that its experts come in.
package enum GptOssModel {
    package static let (hidden, inner, experts) = (96, 64, 3)
    package static let parent = "model.layers.0.mlp.experts."
    /// A model of one layer with random blocks.
    package static func blocks() -> CheckpointBuilder {
        var builder = CheckpointBuilder()
        var random = SeededGenerator(5)
        builder.config = [
            "architectures": .array([.string("GptOssForCausalLM")]), "model_type": .string("gpt_oss"), "hidden_size": .int(hidden),
            "intermediate_size": .int(inner), "num_hidden_layers": .int(1), "num_attention_heads": .int(4), "num_key_value_heads": .int(2),
            "head_dim": .int(32), "num_local_experts": .int(experts), "num_experts_per_tok": .int(2), "vocab_size": .int(50),
            "sliding_window": .int(4), "rope_theta": .int(10000), "layer_types": .array([.string("sliding_attention")]),
            "rope_scaling": .object(["rope_type": .string("yarn"), "factor": .double(4), "original_max_position_embeddings": .int(32)]),
            "quantization_config": .object(["quant_method": .string("mxfp4")]),
        ]
        for (name, shape) in [
            ("model.embed_tokens.weight", [50, hidden]), ("model.norm.weight", [hidden]), ("lm_head.weight", [50, hidden]),
            ("model.layers.0.input_layernorm.weight", [hidden]), ("model.layers.0.post_attention_layernorm.weight", [hidden]),
            ("model.layers.0.self_attn.q_proj.weight", [128, hidden]), ("model.layers.0.self_attn.q_proj.bias", [128]),
            ("model.layers.0.self_attn.k_proj.weight", [64, hidden]), ("model.layers.0.self_attn.k_proj.bias", [64]),
            ("model.layers.0.self_attn.v_proj.weight", [64, hidden]), ("model.layers.0.self_attn.v_proj.bias", [64]),
            ("model.layers.0.self_attn.o_proj.weight", [hidden, 128]), ("model.layers.0.self_attn.o_proj.bias", [hidden]),
            ("model.layers.0.self_attn.sinks", [4]), ("model.layers.0.mlp.router.weight", [experts, hidden]),
            ("model.layers.0.mlp.router.bias", [experts]), (parent + "gate_up_proj_bias", [experts, 2 * inner]),
            (parent + "down_proj_bias", [experts, hidden]),
        ] { builder.addBF16(name, shape, scale: 0.3, &random) }
        for (name, rows, columns) in matrices {
            builder.add(
                parent + name + "_blocks", .u8, [experts, rows, columns / 32, 16], (0..<experts * rows * columns / 2).map { _ in random.next() })
            let scales = (0..<experts * rows * columns / 32).map { _ in 120 + UInt8.random(in: 0..<6, using: &random) }
            builder.add(parent + name + "_scales", .u8, [experts, rows, columns / 32], scales)
        }
        return builder
    }

    package static let matrices = [("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)]

    /// The same model with its experts by themselves, gate and up apart, as llm-compressor has them: rows 0, 2, ... and 1, 3, ... of the stacks.
    package static func apart(_ stacks: CheckpointBuilder) throws -> CheckpointBuilder {
        var builder = stacks
        for (name, rows, columns) in matrices {
            guard let stack = builder[parent + name], let bias = builder[parent + name + "_bias"] else { throw Missing(name: name) }
            builder[parent + name] = nil
            builder[parent + name + "_bias"] = nil
            for expert in 0..<experts {
                let halves = name == "down_proj" ? [("down_proj", 0)] : [("gate_proj", 0), ("up_proj", 1)]
                for (half, first) in halves {
                    let picked = Array(stride(from: first, to: rows, by: halves.count))
                    // Stored [in, out].
                    let weight = picked.flatMap { row in
                        (0..<columns).flatMap { column -> [UInt8] in
                            let place = 2 * ((expert * columns + column) * rows + row)
                            return Array(stack.bytes[place..<place + 2])
                        }
                    }
                    builder.add("\(parent)\(expert).\(half).weight", .bf16, [picked.count, columns], weight)
                    let values = picked.flatMap { Array(bias.bytes[2 * (expert * rows + $0)..<2 * (expert * rows + $0) + 2]) }
                    builder.add("\(parent)\(expert).\(half).bias", .bf16, [picked.count], values)
                }
            }
        }
        return builder
    }

    /// A stack that is not there.
    package struct Missing: Error { package var name: String }
}
