import Foundation
import Recast
import TestSupport
import Testing

/// Shards of DeepSeek's inference code, both ways. `container_interop.py` compares them with the published rules.
@Suite struct DeepSeekShardTests {
    /// A model whose every dimension divides by four, FP8 blocks included.
    func model(_ folder: TemporaryDirectory, quantized: Bool) throws -> String {
        var model = SyntheticModel()
        (model.hidden, model.intermediate, model.expertWidth, model.experts, model.quantized) = (512, 1024, 512, 4, quantized)
        model.block = [16, 16]
        var builder = model.build()
        // 50 rows of the vocabulary do not divide.
        var random = SeededGenerator(1)
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            builder[name] = nil
            builder.addBF16(name, [52, 512], &random)
        }
        try builder.write(to: folder.file("source"))
        return folder.file("source")
    }

    @Test(arguments: [1, 2, 4], [true, false]) func shardsComeBackAsTheModel(_ ranks: Int, _ quantized: Bool) throws {
        let folder = try TemporaryDirectory()
        let source = try model(folder, quantized: quantized)
        try convert(source, folder.file("ranks"), to: "keep", modelParallel: ranks)
        let files = try FileManager.default.contentsOfDirectory(atPath: folder.file("ranks")).filter { $0.hasSuffix(".safetensors") }.sorted()
        #expect(files == (0..<ranks).map { "model\($0)-mp\(ranks).safetensors" })
        try convert(folder.file("ranks"), folder.file("back"), to: "keep")
        let expected = try storedTensors(source).filter { !$0.key.hasPrefix("model.layers.2.") }
        #expect(try storedTensors(folder.file("back")) == expected)
        #expect(try Checkpoint(opening: folder.file("ranks")).config["num_nextn_predict_layers"]?.int == 0)

        let opened = try ContainerRegistry.open(folder.file("ranks/model0-mp\(ranks).safetensors"))
        let first = try #require(opened)
        let shapes = Dictionary(uniqueKeysWithValues: first.tensors.map { ($0.name, $0.shape) })
        #expect(shapes["embed.weight"] == [52 / ranks, 512] && shapes["layers.0.ffn.w2.weight"] == [512, 1024 / ranks])
        #expect(shapes["layers.0.attn.wkv_a.weight"] == [48, 512] && shapes["layers.1.ffn.gate.bias"] == [4])
        #expect(shapes["layers.1.ffn.experts.0.w1.weight"] == [512, 512] && (shapes["layers.1.ffn.experts.3.w1.weight"] == nil) == (ranks > 1))
        #expect(shapes["layers.1.ffn.shared_experts.w1.weight"] == [512 / ranks, 512])
        if quantized { #expect(shapes["layers.0.attn.wo.scale"] == [32, 8 / ranks]) }
        #expect(shapes["head.weight"] == [52 / ranks, 512])
    }

    /// Cut after conversion or converted after cutting: the same values.
    @Test(arguments: ["bf16", "fp8-block"]) func convertingAndDividingCommute(_ target: String) throws {
        let folder = try TemporaryDirectory()
        var model = SyntheticModel()
        (model.hidden, model.intermediate, model.expertWidth, model.experts, model.quantized) = (512, 1024, 512, 4, target == "bf16")
        model.block = [16, 16]
        model.mtp = false
        var builder = model.build()
        var random = SeededGenerator(1)
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            builder[name] = nil
            builder.addBF16(name, [52, 512], &random)
        }
        try builder.write(to: folder.file("source"))
        // The attention's few rows and columns do not divide into blocks of 128.
        let recipe = try Recipe(yaml: "rules: [{match: \"*.self_attn.*_proj*\", to: bf16}]", path: "recipe.yaml")
        try convert(folder.file("source"), folder.file("whole"), to: target, recipe: recipe)
        try convert(folder.file("whole"), folder.file("cut-last"), to: "keep", modelParallel: 2)
        try convert(folder.file("source"), folder.file("cut-first"), to: target, recipe: recipe, modelParallel: 2)
        for rank in 0..<2 {
            let name = "model\(rank)-mp2.safetensors"
            #expect(FileManager.default.contentsEqual(atPath: folder.file("cut-last/" + name), andPath: folder.file("cut-first/" + name)))
        }
    }

    @Test func whatCannotBeDividedIsRefused() throws {
        let folder = try TemporaryDirectory()
        let source = try model(folder, quantized: true)
        func refusal(_ source: String, _ target: String, _ ranks: Int, shardSize: Int? = nil) throws -> String {
            do {
                try convert(source, folder.file("out"), to: target, shardSize: shardSize, modelParallel: ranks)
                return "nothing was refused"
            } catch let failure as ConversionFailure {
                #expect(failure.kind == .usage)
                #expect(!FileManager.default.fileExists(atPath: folder.file("out")))
                return failure.description
            }
        }
        #expect(try refusal(source, "keep", 3).contains("3 ranks"))
        #expect(try refusal(source, "keep", 8).contains("8 ranks"))
        #expect(try refusal(source, "int4-g32", 2).contains("reads BF16 and FP8 blocks"))
        #expect(try refusal(source, "keep", 2, shardSize: 1000).contains("leave out"))
        #expect(try refusal(Fixtures.fp8Model, "keep", 2).contains("would cut FP8 blocks of 128"))
    }

    @Test func incompleteShardsAreRefused() throws {
        let folder = try TemporaryDirectory()
        let source = try model(folder, quantized: false)
        try convert(source, folder.file("ranks"), to: "keep", modelParallel: 2)
        var builder = CheckpointBuilder()
        var random = SeededGenerator(1)
        builder.addBF16("norm.weight", [512], &random)
        try builder.write(to: folder.file("other"))
        try FileManager.default.removeItem(atPath: folder.file("ranks/model1-mp2.safetensors"))
        try FileManager.default.copyItem(atPath: folder.file("other/model.safetensors"), toPath: folder.file("ranks/model1-mp2.safetensors"))
        do {
            _ = try Checkpoint(opening: folder.file("ranks"))
            Issue.record("it was opened")
        } catch let failure as CheckpointFailure {
            #expect(failure.description.contains("is on 1 of 2 ranks"))
        }
    }

    /// deepseek-ai/DeepSeek-V3.2-Exp:inference/convert.py: every rank has the whole indexer, under its own names.
    @Test func namesAreThoseOfTheInferenceCode() {
        let layer = "model.layers.3."
        let names: [(String, String, DeepSeekRanks.Division)] = [
            ("model.embed_tokens.weight", "embed.weight", .rows), ("lm_head.weight", "head.weight", .rows),
            ("model.norm.weight", "norm.weight", .whole),
            (layer + "self_attn.q_b_proj.weight", "layers.3.attn.wq_b.weight", .rows),
            (layer + "self_attn.o_proj.weight_scale_inv", "layers.3.attn.wo.scale", .columns),
            (layer + "mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias", .whole),
            (layer + "mlp.experts.7.down_proj.weight", "layers.3.ffn.experts.7.w2.weight", .whole),
            (layer + "mlp.shared_experts.down_proj.weight", "layers.3.ffn.shared_experts.w2.weight", .columns),
            (layer + "self_attn.indexer.wq_b.weight_scale_inv", "layers.3.attn.indexer.wq_b.scale", .whole),
            (layer + "self_attn.indexer.wk.weight", "layers.3.attn.indexer.wk.weight", .whole),
            (layer + "self_attn.indexer.k_norm.bias", "layers.3.attn.indexer.k_norm.bias", .whole),
            (layer + "self_attn.indexer.weights_proj.weight", "layers.3.attn.indexer.weights_proj.weight", .whole),
        ]
        for (tensor, name, division) in names {
            #expect(DeepSeekRanks.name(of: tensor)?.name == name)
            #expect(DeepSeekRanks.name(of: tensor)?.division == division, "\(tensor)")
            #expect(DeepSeekRanks.canonicalName(of: name)?.name == tensor)
            #expect(DeepSeekRanks.canonicalName(of: name)?.division == division, "\(name)")
        }
        #expect(DeepSeekRanks.name(of: "model.layers.61.eh_proj.weight") == nil)
    }
}
