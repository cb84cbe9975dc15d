import Recast
import TestSupport
import Testing

/// The experts of gpt-oss: MXFP4 blocks as they are released, stacks of BF16 matrices as transformers saves them (Tests/Scripts/forward_interop.py has
/// transformers load what is written here).
@Suite struct GptOssTests {
    static let (hidden, inner, experts) = (GptOssModel.hidden, GptOssModel.inner, GptOssModel.experts)
    static let (parent, matrices) = (GptOssModel.parent, GptOssModel.matrices)
    static func blocks() -> CheckpointBuilder { GptOssModel.blocks() }
    /// OCP's E2M1 numbers, by code.
    static let numbers: [Float] = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]

    @Test func blocksBecomeTheStacksOfTransformersAndGoOnBeingThem() throws {
        let folder = try TemporaryDirectory()
        let builder = Self.blocks()
        try builder.write(to: folder.file("blocks"))
        // A code times a power of two is a BF16 number.
        _ = try ConversionPlan(
            converting: try Checkpoint(opening: folder.file("blocks")), choice: LayoutChoice(target: "bf16"), requireExact: true)
        try convert(folder.file("blocks"), folder.file("plain"), to: "bf16")
        let plain = try CheckpointBuilder(reading: folder.file("plain"))
        #expect(plain.config["quantization_config"] == nil)
        for (name, rows, columns) in Self.matrices {
            let codes = try #require(builder[Self.parent + name + "_blocks"]).bytes,
                scales = try #require(builder[Self.parent + name + "_scales"]).bytes
            let stack = try #require(plain[Self.parent + name])
            #expect(stack.type == .bf16 && stack.shape == [Self.experts, columns, rows])
            var wrong = 0
            for expert in 0..<Self.experts {
                for row in 0..<rows {
                    for column in 0..<columns {
                        let value = (expert * rows + row) * columns + column
                        let number = Self.numbers[Int(codes[value / 2] >> (value % 2 * 4) & 15)]
                        let expected = BFloat16(rounding: number * Float(sign: .plus, exponent: Int(scales[value / 32]) - 127, significand: 1)).bits
                        let place = 2 * ((expert * columns + column) * rows + row)
                        let found = UInt16(stack.bytes[place]) | UInt16(stack.bytes[place + 1]) << 8
                        if found != expected { wrong += 1 }
                    }
                }
            }
            #expect(wrong == 0)
            #expect(plain[Self.parent + name + "_bias"]?.bytes == builder[Self.parent + name + "_bias"]?.bytes)
        }
        #expect(Set(plain.tensors.map(\.name)).count == builder.tensors.count - 2)

        // The same values through every door.
        let (source, output) = (try Checkpoint(opening: folder.file("blocks")), try Checkpoint(opening: folder.file("plain")))
        #expect(source.findings.isEmpty && output.findings.isEmpty)
        let audit = try WeightAudit(reference: source, candidate: output)
        #expect(ParityVerdict(weights: audit, bounds: ParityBounds(), claims: ParityClaims(from: source, to: output)).passed)
        let tokens = TokenBatch([Array(0..<11), [7]])
        let logits = try [source, output].map { checkpoint in
            let pass = try ForwardPass(checkpoint, tokens: tokens)
            while !pass.isDone { try pass.step() }
            return try pass.logits(0..<tokens.count).values
        }
        #expect(logits[0] == logits[1] && logits[0].allSatisfy(\.isFinite))

        try convert(folder.file("plain"), folder.file("again"), to: "bf16")
        for (name, tensor) in try CheckpointBuilder(reading: folder.file("again")).tensors { #expect(tensor.bytes == plain[name]?.bytes, "\(name)") }
    }

    /// The same bytes whatever the memory and the number of workers: tiles are pieces of every stored row.
    @Test func bytesDoNotDependOnTiles() throws {
        let folder = try TemporaryDirectory()
        try Self.blocks().write(to: folder.file("blocks"))
        try convert(folder.file("blocks"), folder.file("a"), to: "bf16")
        try convert(folder.file("blocks"), folder.file("b"), to: "bf16", options: RunOptions(memory: 1 << 20, jobs: 1))
        let b = try CheckpointBuilder(reading: folder.file("b"))
        for (name, tensor) in try CheckpointBuilder(reading: folder.file("a")).tensors { #expect(tensor.bytes == b[name]?.bytes, "\(name)") }
    }

    /// Stacks of other numbers are read by nobody.
    @Test(arguments: ["f16", "f32"]) func otherLayoutsAreRefused(_ target: String) throws {
        let folder = try TemporaryDirectory()
        try Self.blocks().write(to: folder.file("blocks"))
        let error = #expect(throws: (any Error).self) {
            try convert(folder.file("blocks"), folder.file("out"), to: target)
        }
        #expect("\(try #require(error))".contains("gpt-oss"), "\(String(describing: error))")
    }

    private func logits(_ path: String) throws -> [Float] {
        let tokens = TokenBatch([Array(0..<11), [7]])
        let pass = try ForwardPass(Checkpoint(opening: path), tokens: tokens)
        while !pass.isDone { try pass.step() }
        return try pass.logits(0..<tokens.count).values
    }

    private func expectSame(_ a: String, _ b: String) throws {
        let (a, b) = (try CheckpointBuilder(reading: a), try CheckpointBuilder(reading: b))
        #expect(Set(a.tensors.map(\.name)) == Set(b.tensors.map(\.name)))
        for (name, tensor) in a.tensors { #expect(tensor.bytes == b[name]?.bytes && tensor.shape == b[name]?.shape, "\(name)") }
    }

    /// Blocks, BF16 stacks and experts by themselves are one model: whatever is made of one is made of the others, and all are run.
    @Test(arguments: ["int4-g32", "int8-channel", "fp8-block", "fp8-channel", "nvfp4", "nvfp4-modelopt", "mlx-4bit-g32", "gptq-g32"])
    func quantizedExpertsAreByThemselves(_ target: String) throws {
        let folder = try TemporaryDirectory()
        try Self.blocks().write(to: folder.file("blocks"))
        try convert(folder.file("blocks"), folder.file("plain"), to: "bf16")
        let plain = try CheckpointBuilder(reading: folder.file("plain"))
        try GptOssModel.apart(plain).write(to: folder.file("apart"))
        try convert(folder.file("plain"), folder.file("out"), to: target)
        try convert(folder.file("apart"), folder.file("other"), to: target, options: RunOptions(memory: 1 << 20, jobs: 1))
        try expectSame(folder.file("out"), folder.file("other"))
        if target != "fp8-block" {
            // From blocks FP8 is exact where a power of two holds it.
            try convert(folder.file("blocks"), folder.file("third"), to: target)
            try expectSame(folder.file("out"), folder.file("third"))
        }

        let (source, output) = (try Checkpoint(opening: folder.file("plain")), try Checkpoint(opening: folder.file("out")))
        #expect(Set(output.weights.map(\.name)) == Set(source.weights.map(\.name)) && output.findings.isEmpty)
        for weight in output.weights where weight.name.contains("experts") && weight.name.hasSuffix("weight") {
            #expect(weight.layout?.isDense == false, "\(weight.name)")
        }
        let audit = try WeightAudit(reference: source, candidate: output)
        let verdict = ParityVerdict(weights: audit, bounds: ParityBounds(), claims: ParityClaims(from: source, to: output))
        #expect(verdict.passed, "\(verdict)")
        if target.hasPrefix("nvfp4") {
            // Engines load queries, keys and values as one matrix with one scale, and gate and up as another.
            let stored = try CheckpointBuilder(reading: folder.file("out"))
            let leaf = target == "nvfp4" ? "weight_global_scale" : "weight_scale_2"
            for group in [
                ["q_proj", "k_proj", "v_proj"].map { "model.layers.0.self_attn." + $0 }, ["gate_proj", "up_proj"].map { Self.parent + "1." + $0 },
            ] {
                #expect(Set(try group.map { try #require(stored["\($0).\(leaf)"]).bytes }).count == 1, "\(group)")
            }
        }
        // Decoded for transformers it is the same model.
        try convert(folder.file("out"), folder.file("back"), to: "bf16")
        #expect(
            try CheckpointBuilder(reading: folder.file("back"))[Self.parent + "gate_up_proj"]?.shape == [Self.experts, Self.hidden, 2 * Self.inner])
        let figures = try logits(folder.file("out"))
        #expect(try figures == logits(folder.file("back")) && figures.allSatisfy(\.isFinite))
    }

    /// Codes and exponents keep their bytes under every name, there and back.
    @Test func blocksAreRepacked() throws {
        let folder = try TemporaryDirectory()
        let builder = Self.blocks()
        try builder.write(to: folder.file("blocks"))
        try convert(folder.file("blocks"), folder.file("apart"), to: "mxfp4")
        let apart = try CheckpointBuilder(reading: folder.file("apart"))
        for (name, rows, columns) in Self.matrices {
            for (suffix, leaf, size) in [("_blocks", "weight_packed", columns / 2), ("_scales", "weight_scale", columns / 32)] {
                let stack = try #require(builder[Self.parent + name + suffix]).bytes
                for expert in 0..<Self.experts {
                    for row in 0..<rows {
                        let half = name == "down_proj" ? name : row % 2 == 0 ? "gate_proj" : "up_proj"
                        let tensor = try #require(apart["\(Self.parent)\(expert).\(half).\(leaf)"])
                        let place = (name == "down_proj" ? row : row / 2) * size, start = (expert * rows + row) * size
                        #expect(tensor.bytes[place..<place + size].elementsEqual(stack[start..<start + size]))
                    }
                }
            }
        }
        try convert(folder.file("apart"), folder.file("again"), to: "mxfp4-blocks")
        let again = try CheckpointBuilder(reading: folder.file("again"))
        for (name, tensor) in builder.tensors where name.contains("experts") { #expect(again[name]?.bytes == tensor.bytes, "\(name)") }
        #expect(again.config["quantization_config"]?["quant_method"] == .string("mxfp4"))
        #expect(try logits(folder.file("apart")).allSatisfy(\.isFinite))
        // mlx-lm's stacks hold the same bytes too.
        try convert(folder.file("blocks"), folder.file("mlx"), to: "mlx-mxfp4")
        let mlx = try CheckpointBuilder(reading: folder.file("mlx"))
        let gate = try #require(mlx[Self.parent + "gate_proj.weight"]), half = try #require(apart[Self.parent + "1.gate_proj.weight_packed"])
        #expect(gate.shape == [Self.experts, Self.inner, Self.hidden / 8] && gate.type == .u32)
        #expect(gate.bytes[half.bytes.count..<2 * half.bytes.count].elementsEqual(half.bytes))
        try convert(folder.file("mlx"), folder.file("home"), to: "mxfp4-blocks")
        let home = try CheckpointBuilder(reading: folder.file("home"))
        for (name, tensor) in builder.tensors where name.contains("experts") { #expect(home[name]?.bytes == tensor.bytes, "\(name)") }
    }

    /// Of another model nobody reads blocks.
    @Test func blocksAreOfStacksOnly() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(3)
        builder.config = ["model_type": .string("qwen3_moe")]
        builder.addBF16("model.layers.0.mlp.experts.0.down_proj.weight", [64, 96], &random)
        try builder.write(to: folder.file("other"))
        #expect(throws: (any Error).self) { try convert(folder.file("other"), folder.file("out"), to: "mxfp4-blocks") }
    }

    /// Halves of which a row has no place of its own stay what they are stored as, and nothing is run with them.
    @Test func halvesThatDoNotFitAreNotJoined() throws {
        let folder = try TemporaryDirectory()
        try Self.blocks().write(to: folder.file("blocks"))
        try convert(folder.file("blocks"), folder.file("plain"), to: "bf16")
        var builder = try GptOssModel.apart(CheckpointBuilder(reading: folder.file("plain")))
        let name = Self.parent + "1.up_proj.weight"
        let up = try #require(builder[name])
        builder[name] = nil
        builder.add(name, .bf16, [Self.inner - 1, Self.hidden], Array(up.bytes.dropLast(2 * Self.hidden)))
        try builder.write(to: folder.file("short"))
        let checkpoint = try Checkpoint(opening: folder.file("short"))
        #expect(checkpoint.weights.contains { $0.name == name })
        #expect(throws: (any Error).self) { try ForwardPass(checkpoint, tokens: TokenBatch([[1, 2]])) }
        #expect(throws: (any Error).self) { try convert(folder.file("short"), folder.file("out"), to: "bf16") }
    }

    /// Descriptions that would have the stacks cut or the model run otherwise than it was trained.
    @Test(arguments: [
        ("intermediate_size", JSONValue.int(1 << 62)), ("hidden_size", .int(-1)), ("num_local_experts", .int(2)), ("num_local_experts", .null),
        ("rope_theta", .null), ("rope_scaling", .null), ("sliding_window", .null), ("sliding_window", .int(0)), ("head_dim", .null),
        ("swiglu_limit", .double(1e-60)), ("swiglu_alpha", .double(1e300)), ("experts_per_token", .int(3)),
        ("layer_types", .array([.string("chunked_attention")])), ("something", .int(1)),
    ]) func contradictionsAreRefused(_ field: String, _ value: JSONValue) throws {
        let folder = try TemporaryDirectory()
        var builder = Self.blocks()
        builder.config[field] = value
        try builder.write(to: folder.file("other"))
        let checkpoint = try Checkpoint(opening: folder.file("other"))
        #expect(throws: (any Error).self) { try ForwardPass(checkpoint, tokens: TokenBatch([[1, 2]])) }
        if ["intermediate_size", "hidden_size", "num_local_experts"].contains(field) {
            #expect(throws: (any Error).self) { try convert(folder.file("other"), folder.file("out"), to: "bf16") }
        }
    }

    /// BF16 stacks the wrong way round, and names of other models that only look like parts of a stack.
    @Test func whatIsNoStackKeepsItsName() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(3)
        builder.addBF16("model.layers.0.mlp.experts.down_proj.bias", [4, 8], &random)
        builder.addBF16("model.layers.0.mlp.transposed", [4, 8], &random)
        try builder.write(to: folder.file("other"))
        try convert(folder.file("other"), folder.file("out"), to: "bf16")
        #expect(Set(try CheckpointBuilder(reading: folder.file("out")).tensors.map(\.name)) == Set(builder.tensors.map(\.name)))
        var turned = Self.blocks()
        for (name, rows, columns) in Self.matrices {
            turned[Self.parent + name + "_blocks"] = nil
            turned[Self.parent + name + "_scales"] = nil
            turned.addBF16(Self.parent + name, [Self.experts, rows, columns], &random)
        }
        try turned.write(to: folder.file("turned"))
        #expect(throws: (any Error).self) { try convert(folder.file("turned"), folder.file("out"), to: "bf16") }
    }

    /// Stacks that are none are neither taken apart nor written as if they were.
    @Test(arguments: [("gate_up_proj_blocks", [3, 128, 3, 16]), ("down_proj_bias", [3, 96])]) func stacksOfOtherSizesAreRefused(
        _ name: String, _ shape: [Int]
    ) throws {
        let folder = try TemporaryDirectory()
        var builder = Self.blocks()
        builder.config["intermediate_size"] = .int(96)
        #expect(builder[Self.parent + name]?.shape == shape)
        try builder.write(to: folder.file("other"))
        let checkpoint = try Checkpoint(opening: folder.file("other"))
        #expect(checkpoint.findings.contains { "\($0)".contains("so it is not taken apart") })
        #expect(throws: (any Error).self) { try convert(folder.file("other"), folder.file("out"), to: "bf16") }
        #expect(throws: (any Error).self) { try ForwardPass(checkpoint, tokens: TokenBatch([[1, 2]])) }
    }

    @Test func halvesOfAPairAreRefused() throws {
        let folder = try TemporaryDirectory()
        for missing in ["gate_up_proj_scales", "down_proj_blocks"] {
            var builder = Self.blocks()
            builder[Self.parent + missing] = nil
            try builder.write(to: folder.file(missing))
            #expect(throws: (any Error).self) { try convert(folder.file(missing), folder.file("out"), to: "bf16") }
        }
    }
}
