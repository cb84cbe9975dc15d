import Crypto
import Foundation
import Recast

/// Makes checkpoints in memory and on disk, right or broken as a test wants them.
package struct CheckpointBuilder {
    package struct Tensor: Sendable {
        package var type: ScalarType
        package var shape: [Int]
        package var bytes: [UInt8]
        package var file: Int

        package init(type: ScalarType, shape: [Int], bytes: [UInt8], file: Int = 0) {
            self.type = type
            self.shape = shape
            self.bytes = bytes
            self.file = file
        }
    }

    package var tensors: [(name: String, tensor: Tensor)] = []
    package var config: JSONObject = [:]

    package init() {}

    /// A checkpoint in memory, as it is stored, in one file.
    package init(reading directory: String) throws {
        let checkpoint = try Checkpoint(opening: directory, isUnstacked: false)
        for tensor in checkpoint.weights.flatMap(\.stored) {
            add(tensor.name, tensor.type, tensor.shape, try checkpoint.files[tensor.file].read(tensor.byteCount, at: tensor.offset))
        }
        config = checkpoint.config.object ?? [:]
    }

    package mutating func add(_ name: String, _ type: ScalarType, _ shape: [Int], _ bytes: [UInt8], file: Int = 0) {
        tensors.append((name, Tensor(type: type, shape: shape, bytes: bytes, file: file)))
    }

    package mutating func addBF16(_ name: String, _ shape: [Int], file: Int = 0, scale: Float = 0.02, _ random: inout SeededGenerator) {
        let bytes = (0..<shape.reduce(1, *)).flatMap { _ in Self.bytes(BFloat16(rounding: random.normal(scale)).bits) }
        add(name, .bf16, shape, bytes, file: file)
    }

    /// An FP8 weight with a grid of scales; weight and scale may lie in different files.
    package mutating func addFP8(
        _ module: String, _ rows: Int, _ columns: Int, block: [Int] = [128, 128], file: Int = 0, scaleFile: Int? = nil,
        leaf: String = "weight_scale_inv", _ random: inout SeededGenerator
    ) {
        let codes = (0..<rows * columns).map { _ in Float8E4M3(rounding: random.normal(110)).bits }
        add(module + ".weight", .f8E4M3, [rows, columns], codes, file: file)
        let shape = [ceilingDivide(rows, block[0]), ceilingDivide(columns, block[1])]
        let scales = (0..<shape[0] * shape[1]).flatMap { _ in Self.bytes((1e-4 + abs(random.normal(1e-4))).bitPattern) }
        add(module + "." + leaf, .f32, shape, scales, file: scaleFile ?? file)
    }

    package static func bytes<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
        withUnsafeBytes(of: number.littleEndian) { Array($0) }
    }

    package subscript(name: String) -> Tensor? {
        get { tensors.first { $0.name == name }?.tensor }
        set {
            if let index = tensors.firstIndex(where: { $0.name == name }) {
                if let newValue { tensors[index].tensor = newValue } else { tensors.remove(at: index) }
            } else if let newValue {
                tensors.append((name, newValue))
            }
        }
    }

    package mutating func rename(_ name: String, to other: String) {
        if let index = tensors.firstIndex(where: { $0.name == name }) { tensors[index].name = other }
    }

    /// Writes shards, index and config.json. One file without an index if all tensors are in file 0.
    package func write(to directory: String, index: Bool? = nil) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let count = (tensors.map(\.tensor.file).max() ?? 0) + 1
        var map: [(tensor: String, file: String)] = []
        for number in 0..<count {
            let members = tensors.filter { $0.tensor.file == number }
            let name = count == 1 ? "model.safetensors" : "model-\(number + 1)-of-\(count).safetensors"
            let declarations = members.map { TensorDeclaration(name: $0.name, type: $0.tensor.type, shape: $0.tensor.shape) }
            guard let place = SafetensorsHeader.layout(declarations, metadata: [("format", "pt")]) else { continue }
            var bytes = place.header + [UInt8](repeating: 0, count: place.size - place.header.count)
            for (member, offset) in zip(members, place.offsets) {
                bytes.replaceSubrange(offset..<(offset + member.tensor.bytes.count), with: member.tensor.bytes)
                map.append((member.name, name))
            }
            try Data(bytes).write(to: URL(fileURLWithPath: directory + "/" + name))
        }
        if index ?? (count > 1) {
            try Data(SafetensorsIndex.text(weightMap: map, totalSize: tensors.reduce(0) { $0 + $1.tensor.bytes.count }))
                .write(to: URL(fileURLWithPath: directory + "/" + SafetensorsIndex.fileName))
        }
        if !config.members.isEmpty { try Data(JSONValue.object(config).text().utf8).write(to: URL(fileURLWithPath: directory + "/config.json")) }
    }
}

/// A model of the DeepSeek-V3 architecture with sizes of its own choosing, filled with random numbers.
package struct SyntheticModel {
    package var hidden = 320
    package var intermediate = 192
    package var expertWidth = 96
    package var experts = 5
    package var layers = 2
    package var queryRank: Int? = 64
    package var files = 3
    package var scalesElsewhere = true
    package var block = [128, 128]
    package var quantized = true
    package var mtp = true
    package var seed: UInt64 = 7

    package init() {}

    package func build() -> CheckpointBuilder {
        var builder = CheckpointBuilder()
        var random = SeededGenerator(seed)
        var next = 0
        func linear(_ module: String, _ rows: Int, _ columns: Int) {
            next += 1
            let file = next * files / 1000 % files + next % files
            if quantized {
                builder.addFP8(
                    module, rows, columns, block: block, file: file % files, scaleFile: scalesElsewhere ? (file + 1) % files : file % files, &random)
            } else {
                builder.addBF16(module + ".weight", [rows, columns], file: file % files, &random)
            }
        }
        func norm(_ name: String, _ size: Int) { builder.addBF16(name + ".weight", [size], scale: 1, &random) }
        func mlp(_ prefix: String, _ width: Int) {
            linear(prefix + "gate_proj", width, hidden)
            linear(prefix + "up_proj", width, hidden)
            linear(prefix + "down_proj", hidden, width)
        }
        builder.addBF16("model.embed_tokens.weight", [50, hidden], &random)
        for layer in 0..<(layers + (mtp ? 1 : 0)) {
            let p = "model.layers.\(layer)."
            norm(p + "input_layernorm", hidden)
            if let queryRank {
                linear(p + "self_attn.q_a_proj", queryRank, hidden)
                norm(p + "self_attn.q_a_layernorm", queryRank)
                linear(p + "self_attn.q_b_proj", 4 * 48, queryRank)
            } else {
                linear(p + "self_attn.q_proj", 4 * 48, hidden)
            }
            linear(p + "self_attn.kv_a_proj_with_mqa", 48, hidden)
            linear(p + "self_attn.kv_b_proj", 4 * 64, 32)
            linear(p + "self_attn.o_proj", hidden, 4 * 32)
            norm(p + "post_attention_layernorm", hidden)
            if layer == 0 {
                mlp(p + "mlp.", intermediate)
            } else {
                builder.addBF16(p + "mlp.gate.weight", [experts, hidden], &random)
                let bias = (0..<experts).flatMap { _ in CheckpointBuilder.bytes(random.normal(0.1).bitPattern) }
                builder.add(p + "mlp.gate.e_score_correction_bias", .f32, [experts], bias)
                for expert in 0..<experts { mlp(p + "mlp.experts.\(expert).", expertWidth) }
                mlp(p + "mlp.shared_experts.", expertWidth)
            }
            if layer >= layers {
                builder.addBF16(p + "eh_proj.weight", [hidden, 2 * hidden], &random)
                builder.addBF16(p + "shared_head.head.weight", [50, hidden], &random)
                norm(p + "shared_head.norm", hidden)
            }
        }
        builder.addBF16("lm_head.weight", [50, hidden], file: files - 1, &random)
        builder.config = [
            "architectures": .array([.string("DeepseekV3ForCausalLM")]), "model_type": .string("deepseek_v3"), "hidden_size": .int(hidden),
            "num_hidden_layers": .int(layers), "n_routed_experts": .int(experts), "num_experts_per_tok": .int(2), "n_group": .int(1),
            "num_attention_heads": .int(4), "qk_nope_head_dim": .int(32), "v_head_dim": .int(32),
            "num_nextn_predict_layers": .int(mtp ? 1 : 0), "rms_norm_eps": .number("1e-05"), "torch_dtype": .string("bfloat16"),
        ]
        for (field, value) in [
            ("kv_lora_rank", 32), ("qk_rope_head_dim", 16), ("q_lora_rank", queryRank ?? 0), ("vocab_size", 50), ("first_k_dense_replace", 1),
            ("n_shared_experts", 1), ("topk_group", 1), ("routed_scaling_factor", 1),
        ] { builder.config[field] = .int(value) }
        if quantized {
            builder.config["quantization_config"] = .object([
                "quant_method": .string("fp8"), "fmt": .string("e4m3"), "activation_scheme": .string("dynamic"),
                "weight_block_size": .array(block.map(JSONValue.int)),
            ])
        }
        return builder
    }
}

/// What a directory's tensor files hold: SHA-256, dtype and shape of each tensor.
package func storedTensors(_ directory: String) throws -> [String: GoldenTensor] {
    var found: [String: GoldenTensor] = [:]
    for name in try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
    where ContainerRegistry.isTensorFile(name) && !ContainerRegistry.isIndex(name) {
        guard let file = try ContainerRegistry.open(directory + "/" + name) else { continue }
        for tensor in file.tensors {
            let digest = SHA256.hash(data: try file.bytes.read(tensor.byteCount, at: tensor.offset)).map {
                String($0 >> 4, radix: 16) + String($0 & 15, radix: 16)
            }.joined()
            found[tensor.name] = GoldenTensor(digest: digest, type: tensor.type.rawValue, shape: tensor.shape)
        }
    }
    return found
}

/// Every file of a directory by name, for comparing whole outputs.
package func directoryContents(_ directory: String) throws -> [String: Data] {
    var contents: [String: Data] = [:]
    for name in try FileManager.default.subpathsOfDirectory(atPath: directory) {
        var isDirectory: ObjCBool = false
        _ = FileManager.default.fileExists(atPath: directory + "/" + name, isDirectory: &isDirectory)
        contents[name] = isDirectory.boolValue ? Data() : try Data(contentsOf: URL(fileURLWithPath: directory + "/" + name))
    }
    return contents
}

/// Converts with the library, as the command line does.
@discardableResult
package func convert(
    _ source: String, _ destination: String, to target: String, recipe: Recipe = Recipe(), shardSize: Int? = nil,
    container: (any Container.Type)? = nil, keepsByteOrder: Bool = false, filter: HDF5Filter = .zstd, modelParallel: Int? = nil,
    part: Part? = nil, options: RunOptions = RunOptions(), stop: StopToken = StopToken()
) throws -> RunReport {
    let checkpoint = try Checkpoint(opening: source)
    let single = ContainerRegistry.singleFile(destination)
    let output = OutputOptions(
        container: container ?? single ?? Safetensors.self, shardSize: shardSize, isSingleFile: single != nil, keepsByteOrder: keepsByteOrder,
        filter: filter)
    let plan = try ConversionPlan(
        converting: checkpoint, choice: LayoutChoice(target: target, recipe: recipe, modelParallel: modelParallel), output: output)
    return try ConversionRun(plan: plan, checkpoint: checkpoint, destination: destination, part: part, options: options).execute(stop: stop)
}
