import Recast

extension FuzzReader {
    /// What decides about a forward pass: configurations and recorded outputs.
    static let models: [FuzzReader] = [
        FuzzReader("model") { input in
            let folder = FixedModel.folder
            FuzzDirectory.write(input.bytes, to: folder + "/config.json")
            let precision = Precision.allCases[input.hash(below: Precision.allCases.count)]
            refusable {
                let checkpoint = try Checkpoint(opening: folder)
                _ = try ForwardTrial(
                    .checkpoint(checkpoint), checkpoint, tokens: FixedModel.tokens, precision: precision, options: FixedModel.options)
            }
        },
        // A header without offsets and the pattern of the data: logits or a compact reference.
        FuzzReader("reference") { input in
            let parts = input.parts(2)
            let path = FuzzDirectory.path + "/reference.safetensors"
            FuzzDirectory.write(FuzzTensorFile.bytes(header: parts[0], pattern: parts[1]), to: path)
            refusable {
                let reference = try ParityReference(opening: path)
                _ = try ForwardTrial(reference, FixedModel.checkpoint, tokens: reference.tokens ?? FixedModel.tokens, options: FixedModel.options)
            }
        },
        // The same, as what calibration keeps about inputs.
        FuzzReader("statistics") { input in
            let parts = input.parts(2)
            let path = FuzzDirectory.path + "/statistics.safetensors", output = FuzzDirectory.path + "/converted"
            FuzzDirectory.write(FuzzTensorFile.bytes(header: parts[0], pattern: parts[1]), to: path)
            refusable {
                let statistics = try InputStatistics(reading: path)
                let checkpoint = FixedModel.dense
                let weighed = try LayoutChoice(target: "int4-g32", quantizer: QuantizerName(rawValue: "imatrix")!)
                let plan = try ConversionPlan(converting: checkpoint, choice: weighed)
                FuzzDirectory.remove(output)
                _ = try ConversionRun(plan: plan, checkpoint: checkpoint, destination: output, statistics: statistics, options: FixedModel.options)
                    .execute()
            }
        },
    ]
}

/// A model of the DeepSeek-V3 architecture with a dozen values a row, multi-token prediction included.
enum FixedModel {
    static let tokens = TokenBatch([[1, 2, 3], [4, 5]])
    static let options = RunOptions(memory: 64 << 20, jobs: 1)

    static let config =
        #"{"model_type":"deepseek_v3","hidden_size":16,"num_hidden_layers":2,"first_k_dense_replace":1,"num_attention_heads":2,"#
        + #""q_lora_rank":8,"kv_lora_rank":8,"qk_nope_head_dim":8,"qk_rope_head_dim":4,"v_head_dim":8,"intermediate_size":24,"#
        + #""moe_intermediate_size":8,"vocab_size":32,"num_nextn_predict_layers":1,"n_routed_experts":4,"num_experts_per_tok":2,"n_group":2,"#
        + #""topk_group":1,"n_shared_experts":1,"norm_topk_prob":true,"routed_scaling_factor":2.5,"rope_theta":10000}"#

    /// Whose `config.json` an input replaces.
    static let folder = write("model", shapes)
    static let checkpoint: Checkpoint = open(write("reference-model", shapes))
    static let dense: Checkpoint = open(write("dense-model", ["model.layers.0.a.weight": [4, 64], "model.layers.0.b.weight": [4, 32]]))
    static let configuration = FuzzDirectory.prepare { try ModelConfiguration(config: checkpoint.config) }

    private static func open(_ folder: String) -> Checkpoint { FuzzDirectory.prepare { try Checkpoint(opening: folder) } }

    private static func write(_ name: String, _ shapes: [String: [Int]]) -> String {
        let folder = FuzzDirectory.empty(name)
        var header: JSONObject = [:]
        for (name, shape) in shapes.sorted(by: { $0.key < $1.key }) {
            header[name] = .object(["dtype": .string(name.hasSuffix("bias") ? "F32" : "BF16"), "shape": .array(shape.map(JSONValue.int))])
        }
        // BF16 numbers between -0.5 and 0.5; their odd count puts others into every row.
        let pattern: [UInt8] = (0..<26).map { place in
            let number = place / 2
            return UInt8(place % 2 == 0 ? 17 * number % 256 : 0x3C + number % 3 + number % 2 * 0x80)
        }
        let text = Array(JSONValue.object(header).text().utf8)
        FuzzDirectory.write(FuzzTensorFile.bytes(header: text, pattern: pattern), to: folder + "/model.safetensors")
        FuzzDirectory.write(Array(config.utf8), to: folder + "/config.json")
        return folder
    }

    private static let shapes: [String: [Int]] = {
        let (hidden, vocabulary, heads, rank) = (16, 32, 2, 8)
        var shapes = ["model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden], "lm_head.weight": [vocabulary, hidden]]
        func network(_ prefix: String, _ width: Int) {
            shapes[prefix + "gate_proj.weight"] = [width, hidden]
            shapes[prefix + "up_proj.weight"] = [width, hidden]
            shapes[prefix + "down_proj.weight"] = [hidden, width]
        }
        for layer in 0...2 {
            let prefix = "model.layers.\(layer)."
            shapes[prefix + "input_layernorm.weight"] = [hidden]
            shapes[prefix + "post_attention_layernorm.weight"] = [hidden]
            shapes[prefix + "self_attn.q_a_proj.weight"] = [rank, hidden]
            shapes[prefix + "self_attn.q_a_layernorm.weight"] = [rank]
            shapes[prefix + "self_attn.q_b_proj.weight"] = [heads * 12, rank]
            // For configurations without a low-rank query.
            shapes[prefix + "self_attn.q_proj.weight"] = [heads * 12, hidden]
            shapes[prefix + "self_attn.kv_a_proj_with_mqa.weight"] = [rank + 4, hidden]
            shapes[prefix + "self_attn.kv_a_layernorm.weight"] = [rank]
            shapes[prefix + "self_attn.kv_b_proj.weight"] = [heads * 16, rank]
            shapes[prefix + "self_attn.o_proj.weight"] = [hidden, heads * 8]
            if layer == 0 {
                network(prefix + "mlp.", 24)
            } else {
                shapes[prefix + "mlp.gate.weight"] = [4, hidden]
                shapes[prefix + "mlp.gate.e_score_correction_bias"] = [4]
                for expert in 0..<4 { network(prefix + "mlp.experts.\(expert).", 8) }
                network(prefix + "mlp.shared_experts.", 8)
            }
        }
        for norm in ["enorm", "hnorm", "shared_head.norm"] { shapes["model.layers.2.\(norm).weight"] = [hidden] }
        shapes["model.layers.2.eh_proj.weight"] = [hidden, 2 * hidden]
        return shapes
    }()
}
