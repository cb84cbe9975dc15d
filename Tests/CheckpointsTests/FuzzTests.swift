import Foundation
import Recast
import TestSupport
import Testing

/// Mutated headers, indexes and configurations: a reader may refuse them, but never trap, hang or allocate without bound.
/// Deterministic: the seed and the number of inputs are fixed.
@Suite struct FuzzTests {
    static let inputs = 40_000

    /// One to eight edits: flipped bits, changed bytes, inserted tokens that matter to JSON, removed and doubled runs.
    func mutate(_ bytes: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        let tokens = [
            "{", "}", "[", "]", ",", ":", "\"", "\\u", "-1", "0", "1e999", "9223372036854775807", "null", "true", "\"shape\"", "\"BF16\"", "../",
            "\u{0}", "[[[[", " ",
        ]
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...8, using: &random) {
            let at = bytes.isEmpty ? 0 : Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0 where !bytes.isEmpty: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1 where !bytes.isEmpty: bytes[at] = UInt8.random(in: 0...255, using: &random)
            case 2: bytes.insert(contentsOf: Array(tokens.randomElement(using: &random)!.utf8), at: at)
            case 3 where !bytes.isEmpty: bytes.removeSubrange(at..<min(bytes.count, at + Int.random(in: 1...20, using: &random)))
            case 4 where !bytes.isEmpty: bytes.insert(contentsOf: bytes[at..<min(bytes.count, at + Int.random(in: 1...40, using: &random))], at: at)
            default: bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &random)))
            }
        }
        return bytes
    }

    func write(_ bytes: [UInt8], _ path: String) throws {
        let file = try PositionedFile.openForWriting(path, truncate: true)
        try file.write(bytes, at: 0)
    }

    @Test func mutatedTensorFiles() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(100)
        builder.addFP8("model.layers.0.a", 3, 5, &random)
        builder.add("model.layers.0.b.weight_packed", .i32, [2, 1], [UInt8](repeating: 7, count: 8))
        builder.add("model.layers.0.b.weight_scale", .bf16, [2, 1], [1, 60, 1, 60])
        builder.add("model.layers.0.b.weight_shape", .i64, [2], CheckpointBuilder.bytes(Int64(2)) + CheckpointBuilder.bytes(Int64(8)))
        builder.addBF16("norm.weight", [3], &random)
        try builder.write(to: folder.path)
        let path = folder.file("model.safetensors")
        let original = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        var opened = 0, refused = 0
        for _ in 0..<Self.inputs {
            try write(mutate(original, &random), path)
            do {
                let checkpoint = try Checkpoint(opening: folder.path)
                try checkpoint.requireReadable()
                // What opens can also be planned and looked at.
                _ = Inventory(of: checkpoint)
                _ = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16"))
                _ = try ScaleCheck.findings(in: checkpoint)
                opened += 1
            } catch let failure as any Failure {
                #expect(!failure.description.isEmpty && failure.kind != .internalError)
                refused += 1
            }
        }
        #expect(opened + refused == Self.inputs && refused > Self.inputs / 2 && opened > 100, "\(opened) opened, \(refused) refused")
    }

    @Test func mutatedIndexes() throws {
        let folder = try TemporaryDirectory()
        var random = SeededGenerator(200)
        var builder = CheckpointBuilder()
        builder.addFP8("model.layers.0.a", 2, 3, file: 0, scaleFile: 1, &random)
        try builder.write(to: folder.path)
        let path = folder.file(SafetensorsIndex.fileName)
        let original = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        var refused = 0
        for _ in 0..<Self.inputs {
            try write(mutate(original, &random), path)
            do { _ = try Checkpoint(opening: folder.path) } catch is any Failure { refused += 1 }
        }
        #expect(refused > Self.inputs / 2 && refused < Self.inputs)
    }

    @Test func mutatedConfigurations() throws {
        let folder = try TemporaryDirectory()
        var random = SeededGenerator(300)
        var builder = CheckpointBuilder()
        builder.addFP8("model.layers.0.a", 2, 3, &random)
        builder.addBF16("model.layers.0.mlp.experts.0.up_proj.weight", [2, 2], &random)
        try builder.write(to: folder.path)
        let path = folder.file("config.json")
        let configs =
            try ["tiny-deepseek-v3-fp8/config.json"].map { try Fixtures.bytes($0) } + [
                Array(
                    JSONValue.object([
                        "quantization_config": .object(
                            CompressedTensorsConfig.json(
                                groups: [
                                    .init(
                                        format: "pack-quantized",
                                        weights: CompressedTensorsConfig.arguments(bits: 4, type: "int", strategy: "group", groupSize: 32),
                                        activations: nil, targets: ["Linear"])
                                ],
                                ignore: ["lm_head"]))
                    ]).text().utf8)
            ]
        var refused = 0
        for index in 0..<Self.inputs {
            try write(mutate(configs[index % 2], &random), path)
            do {
                let checkpoint = try Checkpoint(opening: folder.path)
                _ = Inventory(of: checkpoint)
                if let model = try? ModelConfiguration(config: checkpoint.config) {
                    _ = try? ActivationBudget(model, TokenBatch([[1, 2]]), memory: 1 << 30)
                }
                _ = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "int8-channel"))
            } catch is any Failure { refused += 1 }
        }
        #expect(refused > 0 && refused < Self.inputs)
    }

    /// Every low-bit layout with damaged headers, configurations and data: opened, planned, repacked and decoded, or refused.
    @Test(arguments: [
        ("awq", "gptq-asym"), ("gptq", "awq"), ("gptq-3bit", "bf16"), ("gptq-asym", "int4-g128-asym"), ("int4-g128-asym", "awq"),
        ("mlx-4bit-g128", "int4-g128"),
        ("mlx-3bit", "bf16"), ("mlx-mxfp4", "mxfp4"), ("mxfp4", "fp8-block"), ("nvfp4", "nvfp4-modelopt"), ("nvfp4-modelopt", "nvfp4"),
        ("w4afp8", "int4-g128"),
    ]) func mutatedLowBitCheckpoints(_ layout: String, _ next: String) throws {
        let folder = try TemporaryDirectory()
        var random = SeededGenerator(400)
        var builder = CheckpointBuilder()
        for expert in 0..<2 {
            for name in ["gate", "up", "down"] { builder.addBF16("model.layers.0.mlp.experts.\(expert).\(name)_proj.weight", [64, 128], &random) }
        }
        builder.addBF16("model.layers.0.self_attn.kv_b_proj.weight", [128, 128], &random)
        builder.config = [
            "num_hidden_layers": .int(1), "n_routed_experts": .int(2), "num_attention_heads": .int(2), "qk_nope_head_dim": .int(32),
            "v_head_dim": .int(32),
        ]
        try builder.write(to: folder.file("bf16"))
        try convert(folder.file("bf16"), folder.file("m"), to: layout)
        try FileManager.default.removeItem(atPath: folder.file("m/recast.manifest.json"))
        let path = folder.file("m/model.safetensors"), configPath = folder.file("m/config.json")
        let original = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path))),
            config = [UInt8](try Data(contentsOf: URL(fileURLWithPath: configPath)))
        let headerSize = 8 + original[..<8].reversed().reduce(0) { $0 << 8 | Int($1) }
        var finished = 0, refused = 0
        for round in 0..<600 {
            var bytes = original
            switch round % 3 {
            case 0:
                // Numbers and letters of the header, its length kept.
                for _ in 0..<Int.random(in: 1...3, using: &random) {
                    let place = Int.random(in: 8..<headerSize, using: &random)
                    bytes[place] = [UInt8(ascii: "0"), UInt8(ascii: "1"), UInt8(ascii: "8"), UInt8(ascii: "9"), UInt8(ascii: "3")].randomElement(
                        using: &random)!
                }
            case 1:
                for _ in 0..<64 { bytes[Int.random(in: headerSize..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random) }
            default: break
            }
            try write(bytes, path)
            try write(round % 3 == 2 ? mutate(config, &random) : config, configPath)
            do {
                let checkpoint = try Checkpoint(opening: folder.file("m"))
                _ = Inventory(of: checkpoint)
                _ = try ScaleCheck.findings(in: checkpoint)
                for target in [next, "bf16"] {
                    let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target))
                    _ = try ConversionRun(
                        plan: plan, checkpoint: checkpoint, destination: folder.file("out"), options: RunOptions(jobs: 1, overwrite: true)
                    ).execute()
                }
                finished += 1
            } catch let failure as any Failure {
                #expect(!failure.description.isEmpty && failure.kind != .internalError)
                refused += 1
            }
            try? FileManager.default.removeItem(atPath: folder.file("out"))
        }
        #expect(finished + refused == 600 && finished > 5 && refused > 50, "\(layout): \(finished) finished, \(refused) refused")
    }
}
