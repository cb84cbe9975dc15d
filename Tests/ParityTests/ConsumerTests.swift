import Foundation
import Parity
import Recast
import TestSupport
import Testing

/// Contracts of the programs that load checkpoints.
@Suite struct ConsumerTests {
    func failures(_ consumer: Consumer, _ path: String) throws -> [String] {
        try ConsumerContract(consumer, Checkpoint(opening: path)).report().checks.compactMap(\.failure)
    }

    /// The small model with a change, as `recast verify --for` sees it.
    func failures(_ consumer: Consumer, in source: String, _ change: (inout CheckpointBuilder) throws -> Void) throws -> [String] {
        let folder = try TemporaryDirectory()
        let checkpoint = try Checkpoint(opening: source)
        var builder = CheckpointBuilder()
        for weight in checkpoint.weights {
            for tensor in weight.stored {
                builder.add(tensor.name, tensor.type, tensor.shape, try checkpoint.files[tensor.file].read(tensor.byteCount, at: tensor.offset))
            }
        }
        builder.config = try #require(checkpoint.config.object)
        try change(&builder)
        try builder.write(to: folder.file("m"))
        return try failures(consumer, folder.file("m"))
    }

    @Test func soundCheckpointsKeepTheContractsOfTheirConsumers() throws {
        let folder = try TemporaryDirectory()
        for consumer in [Consumer.vllm, .sglang, .transformers] {
            #expect(try failures(consumer, Fixtures.fp8Model).isEmpty && failures(consumer, Fixtures.bf16Model).isEmpty)
        }
        for target in ["fp8-block", "fp8-channel", "int4-g128", "int4-g32", "int4-g128-asym", "int8-channel", "bf16"] {
            try convert(Fixtures.bf16Model, folder.file(target), to: target)
            for consumer in [Consumer.vllm, .sglang, .transformers] {
                #expect(try failures(consumer, folder.file(target)).isEmpty, "\(target) for \(consumer)")
            }
        }
        #expect(try failures(.llamaCpp, folder.file("int4-g32")).isEmpty && failures(.llamaCpp, Fixtures.bf16Model).isEmpty)
    }

    @Test func lowBitLayoutsKeepTheContractsOfTheirConsumers() throws {
        let folder = try TemporaryDirectory()
        for (target, consumers) in [
            ("awq", [Consumer.vllm, .sglang, .transformers]), ("gptq", [.vllm, .sglang, .transformers, .llamaCpp]), ("gptq-8bit", [.vllm]),
            ("mxfp4", [.vllm, .transformers]), ("nvfp4-modelopt", [.vllm, .sglang]), ("w4afp8", [.vllm, .sglang]), ("mlx-4bit", [.mlx]),
            ("mlx-mxfp4", [.mlx]),
        ] {
            try convert(Fixtures.bf16Model, folder.file(target), to: target)
            for consumer in consumers { #expect(try failures(consumer, folder.file(target)).isEmpty, "\(target) for \(consumer)") }
        }
        // llm-compressor gives an expert's gate and up projections scales of their own; the engines use one of them for both.
        try convert(Fixtures.bf16Model, folder.file("nvfp4"), to: "nvfp4")
        #expect(try failures(.vllm, folder.file("nvfp4")).contains { $0.contains("another tensor scale") })
        #expect(try failures(.vllm, folder.file("mlx-4bit")).contains { $0.contains("names that only other programs read") })
        #expect(try failures(.transformers, folder.file("w4afp8")).contains { $0.contains("w4afp8") })
    }

    /// gpt-oss's stacks are read in three forms; its experts by themselves in none.
    @Test func stacksOfGptOssKeepTheContract() throws {
        let folder = try TemporaryDirectory()
        try GptOssModel.blocks().write(to: folder.file("blocks"))
        for target in ["bf16", "mxfp4-blocks", "mxfp4-quark"] {
            try convert(folder.file("blocks"), folder.file(target), to: target)
            #expect(try failures(.vllm, folder.file(target)).isEmpty, "\(target)")
        }
        try convert(folder.file("blocks"), folder.file("int4"), to: "int4-g32")
        #expect(try failures(.vllm, folder.file("int4")).contains { $0.contains("names that only other programs read") })
    }

    @Test func whatAConsumerDoesNotReadIsNamed() throws {
        let folder = try TemporaryDirectory()
        for target in ["int8-channel", "int4-g128"] { try convert(Fixtures.bf16Model, folder.file(target), to: target) }
        #expect(try failures(.llamaCpp, folder.file("int8-channel")).contains { $0.contains("in groups") })
        #expect(try failures(.mlx, folder.file("int4-g128")).contains { $0.contains("groups of 32") })
        // mlx-lm drops the multi-token-prediction module by the number that it has in the 671B model.
        #expect(
            try failures(.mlx, Fixtures.bf16Model) == [
                "35 multi-token-prediction weights are not in layer 61, the only one it drops, first model.layers.4.eh_proj.weight, model.layers.4.enorm.weight, model.layers.4.hnorm.weight"
            ]
                || failures(.mlx, Fixtures.bf16Model).contains { $0.contains("layer 61") })
    }

    @Test func brokenContractsNameTheirCulprit() throws {
        let bias = "model.layers.1.mlp.gate.e_score_correction_bias"
        let expert = "model.layers.2.mlp.experts.3.up_proj"
        let cases: [(String, (inout CheckpointBuilder) throws -> Void)] = [
            (bias, { $0[bias] = .init(type: .bf16, shape: [12], bytes: [UInt8](repeating: 0, count: 24)) }),
            ("model.norm.weight", { $0["model.norm.weight"] = nil }),
            ("model.stray.weight", { $0.add("model.stray.weight", .bf16, [1], [0, 0]) }),
            ("architectures", { $0.config["architectures"] = nil }),
            ("quantization_config", { $0.config["quantization_config"] = nil }),
            ("exl2", { $0.config["quantization_config"] = .object(["quant_method": .string("exl2")]) }),
            (
                expert,
                { builder in
                    // One expert in BF16 among FP8 ones: fused experts cannot be loaded.
                    builder[expert + ".weight"] = .init(type: .bf16, shape: [256, 256], bytes: [UInt8](repeating: 0, count: 256 * 512))
                    builder[expert + ".weight_scale_inv"] = nil
                }
            ),
        ]
        let shape = try #require(Checkpoint(opening: Fixtures.fp8Model).weights.first { $0.name == expert + ".weight" }?.dimensions)
        #expect(shape == [256, 256])
        for (word, change) in cases {
            let found = try failures(.vllm, in: Fixtures.fp8Model, change)
            #expect(found.contains { $0.contains(word) || word == expert && $0.contains("model.layers.2.mlp.experts") }, "\(word): \(found)")
        }
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("int4"), to: "int4-g32")
        let unnamed = try failures(.vllm, in: folder.file("int4")) { builder in
            var object = builder.config["quantization_config"]?.object ?? [:]
            object["ignore"] = .array([])
            builder.config["quantization_config"] = .object(object)
        }
        #expect(unnamed.contains { $0.contains("lm_head") }, "\(unnamed)")
        let wrongGroup = try failures(.vllm, in: folder.file("int4")) { builder in
            var object = builder.config["quantization_config"]?.object ?? [:]
            var ignore = object["ignore"]?.array ?? []
            ignore.append(.string("re:.*o_proj$"))
            object["ignore"] = .array(ignore)
            builder.config["quantization_config"] = .object(object)
        }
        #expect(wrongGroup.contains { $0.contains("o_proj") }, "\(wrongGroup)")
    }
}
