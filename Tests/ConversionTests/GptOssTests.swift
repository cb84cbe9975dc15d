import Recast
import TestSupport
import Testing

/// The experts of gpt-oss: MXFP4 blocks as they are released, stacks of BF16 matrices as transformers saves them (Tests/Scripts/forward_interop.py has
/// transformers load what is written here).
@Suite struct GptOssTests {
    static let (hidden, inner, experts) = (96, 64, 3)
    static let parent = "model.layers.0.mlp.experts."
    /// OCP's E2M1 numbers, by code.
    static let numbers: [Float] = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]

    /// A model of one layer with random blocks.
    static func blocks() -> CheckpointBuilder {
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

    static let matrices = [("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)]

    @Test func blocksBecomeTheStacksOfTransformersAndGoOnBeingThem() throws {
        let folder = try TemporaryDirectory()
        let builder = Self.blocks()
        try builder.write(to: folder.file("blocks"))
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

    /// Nobody reads these experts in another layout, and mlx-lm's names are not written.
    @Test(arguments: ["f16", "f32", "int4-g32", "fp8-block", "nvfp4", "mxfp4", "mlx-4bit"]) func otherLayoutsAreRefused(_ target: String)
        throws
    {
        let folder = try TemporaryDirectory()
        try Self.blocks().write(to: folder.file("blocks"))
        let error = #expect(throws: (any Error).self) {
            try convert(folder.file("blocks"), folder.file("out"), to: target)
        }
        #expect("\(try #require(error))".contains("gpt-oss"), "\(String(describing: error))")
    }

    /// Experts by themselves with gate and up apart, as llm-compressor writes them, stay so; the router stays unquantized.
    @Test func expertsByThemselvesStayByThemselves() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(3)
        builder.config = Self.blocks().config
        builder.config["quantization_config"] = nil
        for expert in 0..<Self.experts {
            for (name, shape) in [("gate_proj", [64, 96]), ("up_proj", [64, 96]), ("down_proj", [96, 64])] {
                builder.addBF16(Self.parent + "\(expert).\(name).weight", shape, &random)
            }
        }
        builder.addBF16("model.layers.0.mlp.router.weight", [Self.experts, 96], &random)
        try builder.write(to: folder.file("apart"))
        try convert(folder.file("apart"), folder.file("out"), to: "int4-g32")
        let output = try Checkpoint(opening: folder.file("out"))
        #expect(Set(output.weights.map(\.name)) == Set(builder.tensors.map(\.name)))
        for weight in output.weights { #expect(weight.layout?.isDense == weight.name.contains("router"), "\(weight.name)") }
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
