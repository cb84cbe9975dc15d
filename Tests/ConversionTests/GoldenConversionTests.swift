import Foundation
import Recast
import TestSupport
import Testing

/// Whole conversions of the small trained model against the digests of what the peers wrote.
@Suite struct GoldenConversionTests {
    func check(_ source: String, to target: String, golden: String) throws {
        let folder = try TemporaryDirectory()
        let report = try convert(source, folder.file("out"), to: target)
        let expected = try Fixtures.digests(golden)
        let stored = try storedTensors(folder.file("out"))
        #expect(Set(stored.keys) == Set(expected.keys))
        // Engines load these two as one matrix with one scale of the tensor; the peer gives each its own.
        let fused = target == "nvfp4" ? ["q_a_proj", "kv_a_proj_with_mqa"] : []
        for layer in 0...4 where !fused.isEmpty {
            let modules = fused.map { "model.layers.\(layer).self_attn.\($0)." }
            #expect(stored[modules[0] + "weight_global_scale"]?.digest == stored[modules[1] + "weight_global_scale"]?.digest)
            // The one with the larger range has the peer's bytes.
            #expect(
                modules.contains { module in
                    ["weight_packed", "weight_scale", "weight_global_scale"].allSatisfy {
                        stored[module + $0]?.digest == expected[module + $0]?.digest
                    }
                })
        }
        for (name, tensor) in expected where !fused.contains(where: { name.contains($0) }) {
            let mine = try #require(stored[name])
            #expect(mine.digest == tensor.digest, "\(name)")
            if let type = tensor.type { #expect(mine.type == type && mine.shape == tensor.shape, "\(name)") }
        }
        #expect(report.audit.differences == 0 && report.audit.tensors == 221 && report.audit.values == 12_554_736)
    }

    @Test func fp8ToBF16IsPyTorch() throws { try check(Fixtures.fp8Model, to: "bf16", golden: "fp8-to-bf16.sha256.json") }

    @Test func bf16ToFP8IsPyTorch() throws { try check(Fixtures.bf16Model, to: "fp8-block", golden: "bf16-to-fp8.sha256.json") }

    @Test(arguments: ["int4-g128", "int4-g32", "int4-g128-asym", "int8-channel", "fp8-channel", "nvfp4", "mxfp4"])
    func bf16ToCompressedTensorsIsLLMCompressor(_ target: String) throws {
        try check(Fixtures.bf16Model, to: target, golden: "llm-compressor/\(target).json")
    }

    /// The configuration says the same as the peer's; the group's own name and the wording of exceptions are free.
    /// Without the multi-token-prediction module, which mlx-lm drops: stacked experts, `kv_b_proj` split by head, quantized embedding.
    @Test(arguments: [("mlx-4bit", "affine-4-g64"), ("mlx-4bit-g32", "affine-4-g32"), ("mlx-8bit", "affine-8-g64"), ("mlx-mxfp4", "mxfp4")])
    func bf16ToMLXIsMLXLM(_ target: String, _ golden: String) throws {
        for (source, shardSize) in [(Fixtures.bf16Model, Int?.none), (Fixtures.bf16Model, 1_000_000)] {
            let folder = try TemporaryDirectory()
            try convert(source, folder.file("out"), to: target, shardSize: shardSize)
            let expected = try Fixtures.digests("mlx-lm/\(golden).json")
            let stored = try storedTensors(folder.file("out"))
            #expect(Set(stored.keys) == Set(expected.keys))
            for (name, tensor) in expected { #expect(stored[name] == tensor, "\(name)") }
            let config = try JSONValue(parsing: FileTree.read(folder.file("out/config.json"), limit: 1 << 20))
            let peer = try JSONValue(parsing: Fixtures.bytes("golden/mlx-lm/\(golden).json"))
            for key in ["quantization", "quantization_config"] { #expect(config[key] == peer[key]) }
        }
    }

    @Test(arguments: ["int4-g128", "int4-g32", "int4-g128-asym", "int8-channel", "fp8-channel", "nvfp4", "mxfp4"])
    func quantizationConfigIsLLMCompressors(_ target: String) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("out"), to: target)
        let mine = try #require(try JSONValue(parsing: FileTree.read(folder.file("out/config.json"), limit: 1 << 20))["quantization_config"]?.object)
        let peer = try #require(try JSONValue(parsing: Fixtures.bytes("golden/llm-compressor/\(target).json"))["quantization_config"]?.object)
        func sorted(_ value: JSONValue?) -> String? {
            guard case .object(let object)? = value else { return value?.text(pretty: false) }
            return "{" + object.members.sorted { $0.key < $1.key }.map { "\($0.key): \(sorted($0.value) ?? "")" }.joined(separator: ", ") + "}"
        }
        for key in ["format", "global_compression_ratio", "kv_cache_scheme", "quant_method", "quantization_status", "transform_config", "version"] {
            #expect(mine[key] == peer[key], "\(key)")
        }
        #expect(sorted(mine["config_groups"]?.object?.members.first?.value) == sorted(peer["config_groups"]?.object?.members.first?.value))
        let exceptions = target.hasPrefix("int4-g128") ? (0...4).map { "model.layers.\($0).self_attn.kv_b_proj" } : []
        #expect(mine["ignore"]?.array?.compactMap(\.string) == ModelRoles(Architecture.named("deepseek_v3")).ignorePatterns + exceptions)
    }

    @Test func configOfBF16HasNoQuantizationAndKeepsTheRest() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("out"), to: "bf16")
        var expected = try #require(try JSONValue(parsing: Fixtures.bytes("tiny-deepseek-v3-fp8/config.json")).object)
        expected["quantization_config"] = nil
        #expect(try JSONValue(parsing: FileTree.read(folder.file("out/config.json"), limit: 1 << 20)).object == expected)
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            #expect(
                try Data(contentsOf: URL(fileURLWithPath: folder.file("out/" + name))) == Data(try Fixtures.bytes("tiny-deepseek-v3-fp8/" + name)))
        }
    }

    @Test func theManifestHoldsTheDigestsOfWhatIsStored() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("out"), to: "int4-g32")
        let manifest = try JSONValue(parsing: FileTree.read(folder.file("out/recast.manifest.json"), limit: 1 << 24))
        let stored = try storedTensors(folder.file("out"))
        var seen = 0
        for weight in try #require(manifest["weights"]?.array) {
            for tensor in try #require(weight["tensors"]?.array) {
                #expect(stored[tensor["name"]?.string ?? ""]?.digest == tensor["sha256"]?.string)
                seen += 1
            }
            if weight["road"]?.string == "quantize" {
                let sqnr = try #require(weight["sqnr_db"]?.double)
                #expect(sqnr > 15 && sqnr < 40, "\(weight["name"]?.string ?? ""): \(sqnr) dB")
            }
        }
        #expect(seen == stored.count)
        #expect(manifest["audit"]?["quantized"]?.int == 184 && manifest["audit"]?["passthrough"]?.int == 37)
        #expect(manifest["claim"]?.string?.contains("221 tensors, 12,554,736 values") == true)
    }
}
