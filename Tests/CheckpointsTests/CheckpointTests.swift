import Foundation
import Recast
import TestSupport
import Testing

@Suite struct CheckpointTests {
    func open(_ builder: CheckpointBuilder, index: Bool? = nil) throws -> Checkpoint {
        let folder = try TemporaryDirectory()
        try builder.write(to: folder.file("model"), index: index)
        return try Checkpoint(opening: folder.file("model"))
    }

    @Test func theBundledModelsAreRecognised() throws {
        let fp8 = try Checkpoint(opening: Fixtures.fp8Model)
        #expect(fp8.weights.count == 221 && fp8.weights.count { $0.layoutName == "fp8-block" } == 184)
        #expect(fp8.unpaired.isEmpty && fp8.findings.isEmpty)
        let bf16 = try Checkpoint(opening: Fixtures.bf16Model)
        #expect(bf16.weights.count == 221 && bf16.weights.allSatisfy { $0.layout?.isDense == true })
    }

    @Test func directoryIndexAndShardsOpenAlike() throws {
        let names = try [Fixtures.fp8Model, Fixtures.fp8Model + "/", Fixtures.fp8Model + "/model.safetensors.index.json"].map {
            try Checkpoint(opening: $0).weights.map(\.name)
        }
        #expect(names[0] == names[1] && names[0] == names[2])
        #expect(
            try open(SyntheticModel().build(), index: false).weights.map(\.name).sorted()
                == open(SyntheticModel().build(), index: true).weights.map(\.name).sorted())
    }

    @Test func aSingleShardOpensAlone() throws {
        let checkpoint = try Checkpoint(opening: Fixtures.fp8Model + "/model-00001-of-000004.safetensors")
        #expect(checkpoint.files.count == 1 && checkpoint.weights.count > 10)
    }

    @Test func scalesInOtherShardsArePaired() throws {
        let checkpoint = try open(SyntheticModel().build())
        #expect(checkpoint.unpaired.isEmpty)
        #expect(checkpoint.weights.contains { $0.stored.count == 2 && $0.stored[0].file != $0.stored[1].file })
    }

    @Test(arguments: [[128, 128], [32, 32], [1, 128], [64, 16], [128, 1]]) func blockGeometryComesFromConfigAndScale(_ block: [Int]) throws {
        var model = SyntheticModel()
        model.block = block
        let layouts = try open(model.build()).weights.compactMap { $0.layout as? BlockScaledFP8Layout }
        #expect(!layouts.isEmpty && layouts.allSatisfy { $0.blockRows == block[0] && $0.blockColumns == block[1] })
    }

    @Test func otherArchitecturesOfTheFamilyOpen() throws {
        var model = SyntheticModel()
        (model.queryRank, model.experts, model.hidden, model.files, model.mtp) = (nil, 9, 448, 5, false)
        let checkpoint = try open(model.build())
        #expect(checkpoint.findings.isEmpty && checkpoint.weights.contains { $0.name.hasSuffix("self_attn.q_proj.weight") })
    }

    @Test func oneTensorMissingItsScaleIsNamed() throws {
        var builder = SyntheticModel().build()
        builder["model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"] = nil
        let error = #expect(throws: CheckpointFailure.self) { try open(builder).requireReadable() }
        #expect(error?.description.contains("model.layers.1.mlp.experts.3.up_proj.weight") == true)
        #expect(error?.kind == .badData)
    }

    @Test(arguments: ["weight_scale_inverse", "scale_inv", "weight_scales"]) func aRenamedScaleIsPointedAt(_ leaf: String) throws {
        var builder = SyntheticModel().build()
        builder.rename("model.layers.0.mlp.up_proj.weight_scale_inv", to: "model.layers.0.mlp.up_proj." + leaf)
        let error = #expect(throws: CheckpointFailure.self) { try open(builder).requireReadable() }
        #expect(error?.description.contains("model.layers.0.mlp.up_proj." + leaf) == true, "\(error?.description ?? "")")
    }

    @Test(arguments: ["scale", "weight_scale"]) func otherUsualScaleNamesArePaired(_ leaf: String) throws {
        var builder = CheckpointBuilder()
        var random = SeededGenerator(1)
        builder.addFP8("a.layers.0.b", 256, 256, leaf: leaf, &random)
        let checkpoint = try open(builder)
        #expect(checkpoint.unpaired.isEmpty && checkpoint.weights.count == 1)
        #expect((checkpoint.weights[0].layout as? BlockScaledFP8Layout)?.scaleLeaf == leaf)
    }

    @Test func aParameterNamedScaleIsNotATensorsScale() throws {
        var builder = CheckpointBuilder()
        var random = SeededGenerator(1)
        builder.addBF16("layers.0.hc.weight", [4, 4], &random)
        builder.add("layers.0.hc.scale", .f32, [1], [0, 0, 128, 63])
        let checkpoint = try open(builder)
        #expect(checkpoint.unpaired.isEmpty && checkpoint.weights.count == 2)
    }

    @Test func anOrphanScaleIsNamed() throws {
        var builder = SyntheticModel().build()
        builder["model.layers.0.mlp.up_proj.weight"] = nil
        let error = #expect(throws: CheckpointFailure.self) { try open(builder).requireReadable() }
        #expect(error?.description.contains("weight_scale_inv") == true && error?.description.contains("belongs to no quantized weight") == true)
    }

    @Test func aScaleOfTheWrongShapeIsNamed() throws {
        var builder = SyntheticModel().build()
        let name = "model.layers.1.self_attn.o_proj.weight_scale_inv"
        let old = try #require(builder[name])
        builder[name] = .init(type: .f32, shape: [old.shape[1], old.shape[0]], bytes: old.bytes, file: old.file)
        let error = #expect(throws: CheckpointFailure.self) { try open(builder) }
        #expect(error?.description.contains(name) == true && error?.description.contains("[1, 3]") == true, "\(error?.description ?? "")")
    }

    @Test func narrowTensorsWithoutAnyScaleAreRefusedWhateverTheirName() throws {
        for (name, type, shape) in [
            ("x", ScalarType.f8E4M3, [4]), ("l.weight", .i8, [2, 2]), ("l.weight_packed", .i32, [2, 2]), ("l.qweight", .i32, [2, 2]),
            ("l.weight", .f4, [2, 2]),
        ] {
            var builder = CheckpointBuilder()
            builder.add(name, type, shape, [UInt8](repeating: 0, count: Shape.byteCount(shape, type)!))
            let result = Result { try open(builder).requireReadable() }
            #expect(throws: CheckpointFailure.self, "\(name) \(type)") { try result.get() }
        }
    }

    @Test func buffersAndIntegersAreCarried() throws {
        var builder = CheckpointBuilder()
        builder.add("mask", .bool, [8], [UInt8](repeating: 1, count: 8))
        builder.add("layers.0.tid2eid", .i64, [2], [UInt8](repeating: 0, count: 16))
        let checkpoint = try open(builder)
        try checkpoint.requireReadable()
        #expect(checkpoint.weights.map(\.layoutName) == ["BOOL", "I64"] || checkpoint.weights.map(\.layoutName) == ["I64", "BOOL"])
    }

    @Test func brokenDirectoriesSayWhatIsWrong() throws {
        let folder = try TemporaryDirectory()
        func sentence(_ path: String) -> String {
            String(describing: #expect(throws: (any Error).self) { try Checkpoint(opening: path) }.map { "\($0)" } ?? "")
        }
        #expect(sentence(folder.file("nothing")).contains("no such file"))
        #expect(sentence(folder.path).contains("no .safetensors file"))
        try SyntheticModel().build().write(to: folder.file("m"))
        try FileManager.default.removeItem(atPath: folder.file("m/model-2-of-3.safetensors"))
        #expect(sentence(folder.file("m")).contains("model-2-of-3.safetensors"))
        try Data("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".utf8).write(
            to: URL(fileURLWithPath: folder.file("m/model-2-of-3.safetensors")))
        #expect(sentence(folder.file("m")).contains("Git LFS pointer"))
        try SyntheticModel().build().write(to: folder.file("m"))
        try Data(#"{"weight_map":{"gone":"model-1-of-3.safetensors"}}"#.utf8).write(
            to: URL(fileURLWithPath: folder.file("m/model.safetensors.index.json")))
        #expect(sentence(folder.file("m")).contains("gone"))
        try SyntheticModel().build().write(to: folder.file("m"))
        try Data("{".utf8).write(to: URL(fileURLWithPath: folder.file("m/config.json")))
        #expect(sentence(folder.file("m")).contains("config.json"))
        try Data("hello, this is text".utf8).write(to: URL(fileURLWithPath: folder.file("note.txt")))
        #expect(sentence(folder.file("note.txt")).contains("neither a safetensors file nor an index"))
    }

    @Test func aTensorInTwoShardsIsRefused() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        builder.add("a", .u8, [1], [1])
        try builder.write(to: folder.path)
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        try FileManager.default.copyItem(atPath: folder.file("model.safetensors"), toPath: folder.file(names[1]))
        try FileManager.default.moveItem(atPath: folder.file("model.safetensors"), toPath: folder.file(names[0]))
        let error = #expect(throws: SafetensorsFailure.self) { try Checkpoint(opening: folder.path) }
        #expect(error?.description.contains(names[1]) == true)
    }

    @Test func missingMTPLayersAreReported() throws {
        var model = SyntheticModel()
        model.mtp = false
        var builder = model.build()
        builder.config["num_nextn_predict_layers"] = .int(1)
        #expect(try open(builder).findings.contains { "\($0)".contains("num_nextn_predict_layers") })
    }

    @Test func inventoryCounts() throws {
        let inventory = Inventory(of: try Checkpoint(opening: Fixtures.fp8Model))
        #expect(inventory.parameters == 12_554_736 && inventory.tensors == 405 && inventory.weights == 221 && inventory.shards == 4)
        #expect(inventory.byLayout.map(\.layout) == ["fp8-block", "bf16", "f32"])
        // 3 mixture layers of 12 experts, 4 used: 8 of 12 experts of 3 x 256 x 256 idle.
        #expect(inventory.activeParameters == inventory.parameters - inventory.mtpParameters - 3 * 8 * 3 * 256 * 256)
        #expect(inventory.json["schema"]?.int == 1)
    }

    /// gpt-oss: experts stacked in one tensor, 16 bytes of codes and one exponent for 32 columns, biases beside them.
    @Test func stackedMXFP4OfGPTOSSIsRead() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(9)
        let (experts, rows, groups) = (3, 6, 2)
        let prefix = "model.layers.0.mlp.experts."
        let codes = (0..<experts * rows * groups * 16).map { _ in UInt8.random(in: 0...255, using: &random) }
        let exponents = (0..<experts * rows * groups).map { _ in UInt8.random(in: 110...125, using: &random) }
        for name in ["gate_up_proj", "down_proj"] {
            builder.addBF16(prefix + name + "_bias", [experts, rows], &random)
            builder.add(prefix + name + "_blocks", .u8, [experts, rows, groups, 16], codes)
            builder.add(prefix + name + "_scales", .u8, [experts, rows, groups], exponents)
        }
        builder.config = ["quantization_config": .object(["quant_method": .string("mxfp4")])]
        try builder.write(to: folder.file("m"))
        let checkpoint = try Checkpoint(opening: folder.file("m"))
        #expect(checkpoint.unpaired.isEmpty && checkpoint.weights.count == 4)
        let weight = try #require(checkpoint.weights.first { $0.name == prefix + "gate_up_proj" })
        #expect(weight.dimensions == [3, 6, 64] && weight.layoutName == "mxfp4 in gpt-oss blocks")
        let report = try convert(folder.file("m"), folder.file("out"), to: "bf16")
        #expect(report.audit.roads == [.passthrough: 2, .dequantize: 2])
        let stored = try #require(try Checkpoint(opening: folder.file("out")).weights.first { $0.name == prefix + "gate_up_proj" })
        #expect(stored.dimensions == [3, 6, 64] && stored.layoutName == "bf16")
        let opened = try Checkpoint(opening: folder.file("out"))
        let values = try opened.files[0].read(stored.storedBytes, at: stored.stored[0].offset)
        let expected = codes.enumerated().flatMap { index, byte -> [UInt8] in
            [Nibbles.low(byte), Nibbles.high(byte)].flatMap {
                CheckpointBuilder.bytes(BFloat16(rounding: Float4E2M1(bits: $0).value * Float8E8M0(bits: exponents[index / 16]).value).bits)
            }
        }
        #expect(values == expected)
        // The orphan of a pair is refused by name.
        builder[prefix + "down_proj_scales"] = nil
        try builder.write(to: folder.file("n"))
        let failure = #expect(throws: CheckpointFailure.self) { try Checkpoint(opening: folder.file("n")) }
        #expect("\(String(describing: failure))".contains("down_proj_scales"))
    }
}
