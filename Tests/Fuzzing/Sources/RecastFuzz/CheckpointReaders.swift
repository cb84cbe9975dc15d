import Recast

extension FuzzReader {
    /// Checkpoints of safetensors files: what a header and a configuration say of each other.
    static let checkpoints: [FuzzReader] = [
        // A header without offsets, config.json, and the pattern of the data.
        FuzzReader("checkpoint") { input in
            let parts = input.parts(3)
            let folder = FuzzDirectory.empty("checkpoint")
            FuzzDirectory.write(FuzzTensorFile.bytes(header: parts[0], pattern: parts[2]), to: folder + "/model.safetensors")
            if !parts[1].isEmpty { FuzzDirectory.write(parts[1], to: folder + "/config.json") }
            convert(folder, input)
        },
        // One of some sets of tensors, by the first byte, with any config.json, or any of the files that describe a quantization beside it.
        FuzzReader("config") { input in
            let (number, rest) = input.choice(below: FixedTensors.sets.count)
            let folder = FuzzDirectory.empty("checkpoint")
            let texts = FuzzInput(rest).parts(2)
            FuzzDirectory.write(FixedTensors.files[number], to: folder + "/model.safetensors")
            FuzzDirectory.write(texts[0], to: folder + "/config.json")
            let beside = (QuantizationDescription.files + [QuantizationDescription.nativeFile])
            if !texts[1].isEmpty { FuzzDirectory.write(texts[1], to: folder + "/" + beside[input.hash(below: beside.count)]) }
            convert(folder, input)
        },
        // The headers of two shards of DeepSeek's inference code.
        FuzzReader("ranks") { input in
            let parts = input.parts(3)
            let folder = FuzzDirectory.empty("checkpoint")
            for rank in 0..<2 {
                let file = folder + "/" + DeepSeekRanks.fileName(rank: rank, of: 2)
                FuzzDirectory.write(FuzzTensorFile.bytes(header: parts[rank], pattern: parts[2]), to: file)
            }
            convert(folder, input)
        },
        // A reference and a candidate: a header and config.json each.
        FuzzReader("verify") { input in
            let parts = input.parts(5)
            let folders = ["checkpoint", "candidate"].map(FuzzDirectory.empty)
            for (number, folder) in folders.enumerated() {
                let file = FuzzTensorFile.bytes(header: parts[2 * number], pattern: parts[4])
                FuzzDirectory.write(file, to: folder + "/model.safetensors")
                if !parts[2 * number + 1].isEmpty { FuzzDirectory.write(parts[2 * number + 1], to: folder + "/config.json") }
            }
            refusable {
                let checkpoints = try folders.map { try Checkpoint(opening: $0) }
                _ = ParityClaims(from: checkpoints[0], to: checkpoints[1])
                _ = try WeightAudit(reference: checkpoints[0], candidate: checkpoints[1], options: RunOptions(memory: 64 << 20, jobs: 1)).kinds
            }
        },
    ]

    /// Targets that every checkpoint is planned for, and others of which the input chooses one to be carried out.
    private static let planned = ["bf16", "int4-g32", "mlx-4bit"]
    private static let others = LayoutRegistry.targets.filter(\.isListed).map(\.name) + [LayoutChoice.keepName, "awq-g32", "gptq-v2", "int4-g32"]

    private static let outputs: [any Container.Type] = [Safetensors.self, Safetensors.self, ZstdArchive.self, TorchArchive.self, Safetensors.self]

    static func convert(_ folder: String, _ input: FuzzInput) {
        refusable {
            let checkpoint = try Checkpoint(opening: folder)
            _ = Inventory(of: checkpoint)
            refusable { _ = try ScaleCheck.findings(in: checkpoint) }
            _ = try? ModelConfiguration(config: checkpoint.config)
            for target in planned {
                refusable {
                    let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target), checksScales: false)
                    requireWhole(plan, checkpoint)
                }
            }
            refusable {
                let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16", modelParallel: 2), checksScales: false)
                requireWhole(plan, checkpoint)
            }
            let target = others[input.hash(below: others.count)]
            let source = target == LayoutChoice.keepName ? try Checkpoint(opening: folder, isUnstacked: false) : checkpoint
            let container = outputs[input.hash(below: outputs.count)]
            let ranks = container == Safetensors.self && input.hash(below: 3) == 0 ? 2 : nil
            let plan = try ConversionPlan(
                converting: source, choice: LayoutChoice(target: target, modelParallel: ranks), output: OutputOptions(container: container))
            _ = PlanPreview(plan, source)
            requireWhole(plan, source)
            guard plan.outputBytes < 1 << 20 else { return }
            let output = FuzzDirectory.path + "/converted"
            FuzzDirectory.remove(output)
            _ = try ConversionRun(plan: plan, checkpoint: source, destination: output, options: RunOptions(memory: 64 << 20, jobs: 1)).execute()
            do { _ = Inventory(of: try Checkpoint(opening: output)) } catch { finding("what was written cannot be opened", "\(target): \(error)") }
        }
    }

    /// Every weight goes into the output, or a note says that some do not.
    private static func requireWhole(_ plan: ConversionPlan, _ source: Checkpoint) {
        let lost = Set(source.weights.indices).subtracting(plan.weights.map(\.source))
        if let first = lost.first, !plan.notes.contains(where: { $0.description.contains("left out") }) {
            finding("a weight is in no output and in no note", source.weights[first].name)
        }
    }
}

/// Small checkpoints of several layouts, by what `config.json` can say of them.
enum FixedTensors {
    typealias Tensor = (leaf: String, type: String, shape: [Int], data: [Int])

    static let sets: [[(module: String, tensors: [Tensor])]] = [
        [
            ("model.embed_tokens", [("weight", "BF16", [8, 32], [])]),
            ("model.layers.0.self_attn.kv_b_proj", [("weight", "BF16", [64, 32], [])]),
            ("model.layers.0.mlp.experts.0.up_proj", [("weight", "F8_E4M3", [4, 32], []), ("weight_scale_inv", "F32", [1, 1], [])]),
            ("model.layers.0.mlp.experts.1.up_proj", [("weight", "F8_E4M3", [4, 32], []), ("weight_scale_inv", "F32", [1, 1], [])]),
            ("model.layers.1.norm", [("weight", "BF16", [32], [])]),
        ],
        [
            (
                "model.layers.0.a",
                [
                    ("weight_packed", "I32", [2, 8], []), ("weight_scale", "BF16", [2, 2], []),
                    ("weight_shape", "I64", [2], [2, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0]),
                ]
            ),
            ("model.layers.0.c", [("weight", "F8_E4M3", [2, 64], []), ("weight_scale", "BF16", [2, 1], [])]),
        ],
        [
            (
                "model.layers.0.a",
                [("qweight", "I32", [8, 8], []), ("qzeros", "I32", [1, 1], []), ("scales", "F16", [1, 8], []), ("g_idx", "I32", [64], [0])]
            )
        ],
        [
            ("model.layers.0.a", [("weight", "U32", [2, 8], []), ("scales", "BF16", [2, 1], []), ("biases", "BF16", [2, 1], [])]),
            ("model.layers.0.b", [("weight", "U32", [2, 8], []), ("scales", "U8", [2, 2], [])]),
            (
                "model.layers.0.mlp.switch_mlp.up_proj",
                [("weight", "U32", [2, 2, 8], []), ("scales", "BF16", [2, 2, 1], []), ("biases", "BF16", [2, 2, 1], [])]
            ),
            ("model.layers.0.self_attn.embed_q", [("weight", "BF16", [2, 4, 8], [])]),
            ("model.layers.0.self_attn.unembed_out", [("weight", "BF16", [2, 8, 4], [])]),
        ],
        [
            ("model.layers.0.a", [("weight_packed", "U8", [2, 16], []), ("weight_scale", "U8", [2, 1], [])]),
            (
                "model.layers.0.b",
                [("weight_packed", "U8", [2, 16], []), ("weight_scale", "F8_E4M3", [2, 2], []), ("weight_global_scale", "F32", [1], [])]
            ),
            ("model.layers.0.c", [("weight", "U8", [2, 16], []), ("weight_scale", "F8_E4M3", [2, 2], []), ("weight_scale_2", "F32", [], [])]),
            ("model.layers.0.mlp.experts", [("gate_up_proj", "BF16", [2, 64, 16], []), ("down_proj", "BF16", [2, 16, 32], [])]),
        ],
        // Without an order of columns: only the configuration tells AWQ from GPTQ.
        [("model.layers.0.a", [("qweight", "I32", [64, 8], []), ("qzeros", "I32", [2, 8], []), ("scales", "F16", [2, 64], [])])],
    ]

    static let files: [[UInt8]] = sets.map { modules in
        var header: JSONObject = [:]
        for (module, tensors) in modules {
            for tensor in tensors {
                header["\(module).\(tensor.leaf)"] = .object([
                    "dtype": .string(tensor.type), "shape": .array(tensor.shape.map(JSONValue.int)),
                    "data": tensor.data.isEmpty ? .null : .array(tensor.data.map(JSONValue.int)),
                ])
            }
        }
        // Scales that are numbers whatever their type.
        return FuzzTensorFile.bytes(header: Array(JSONValue.object(header).text().utf8), pattern: [0x38, 0x3C])
    }
}
