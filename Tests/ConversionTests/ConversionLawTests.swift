import Foundation
import Parity
import Recast
import TestSupport
import Testing

/// What every conversion obeys, on models of other sizes than the bundled one.
@Suite struct ConversionLawTests {
    static let layouts = LayoutRegistry.targets.filter(\.isListed).map(\.name)

    static func sources() -> [(String, SyntheticModel)] {
        var flat = SyntheticModel(), blocks = SyntheticModel(), single = SyntheticModel(), plain = SyntheticModel()
        (flat.queryRank, flat.experts, flat.mtp) = (nil, 3, false)
        (blocks.block, blocks.hidden, blocks.expertWidth) = ([32, 32], 256, 128)
        (single.files, single.hidden) = (1, 384)
        (plain.quantized, plain.files) = (false, 2)
        return [("default", SyntheticModel()), ("no query rank", flat), ("32x32 blocks", blocks), ("one file", single), ("bf16", plain)]
    }

    /// Layouts whose tiles are pieces of every stored row: with less memory these are held for a band of the weight's rows only, and the bytes are the same.
    @Test(arguments: [true, false], ["awq", "gptq-asym", "gptq-3bit", "gptq-8bit"])
    func bandsOfWeightsMakeUpTheWhole(_ quantized: Bool, _ target: String) throws {
        let folder = try TemporaryDirectory()
        var model = SyntheticModel()
        (model.hidden, model.intermediate, model.layers, model.mtp, model.quantized) = (1536, 2048, 1, false, quantized)
        try model.build().write(to: folder.file("origin"))
        try convert(folder.file("origin"), folder.file("whole"), to: target)
        let whole = try directoryContents(folder.file("whole"))
        for (number, options) in [RunOptions(memory: 32 << 20, jobs: 2), RunOptions(memory: 8 << 20, jobs: 1), RunOptions(memory: 5 << 20, jobs: 1)]
            .enumerated()
        {
            let report = try convert(folder.file("origin"), folder.file("\(number)"), to: target, options: options)
            #expect(report.audit.differences == 0)
            #expect(try directoryContents(folder.file("\(number)")) == whole, "\(options.memory >> 20) MiB")
        }
        // From pieces of rows to pieces of rows.
        if let other = ["awq": "gptq-asym", "gptq-asym": "awq"][target] {
            try convert(folder.file("whole"), folder.file("again"), to: other)
            try convert(folder.file("whole"), folder.file("banded"), to: other, options: RunOptions(memory: 8 << 20, jobs: 1))
            #expect(try directoryContents(folder.file("banded")) == directoryContents(folder.file("again")))
        }
    }

    /// A -> C has the bytes of A -> BF16 -> C, for every pair of layouts; or, where C can hold A's very codes, A's values; or, where C is a type that
    /// holds more than BF16 and A has more, A's values rounded once.
    @Test(arguments: layouts) func convertingDirectlyEqualsConvertingThroughBF16(_ first: String) throws {
        let folder = try TemporaryDirectory()
        var model = SyntheticModel()
        (model.hidden, model.layers, model.experts) = (256, 1, 3)
        try model.build().write(to: folder.file("origin"))
        try convert(folder.file("origin"), folder.file("a"), to: first)
        try convert(folder.file("a"), folder.file("bf16"), to: "bf16")
        for second in Self.layouts where second != first {
            // A power-of-two FP8 checkpoint is a valid FP8 checkpoint: its bytes pass through.
            if first == "fp8-block-ue8m0" && second == "fp8-block" { continue }
            // So do the FP8 weights beside W4AFP8's experts.
            if [first, second].contains("w4afp8"), [first, second].contains(where: { $0.hasPrefix("fp8-block") }) { continue }
            let origin = try Checkpoint(opening: folder.file("a"))
            let plan = try ConversionPlan(converting: origin, choice: LayoutChoice(target: second))
            // A head taken out of a dense weight is a rearrangement of the same numbers and obeys the law like any other.
            let repacked = plan.weights.count { $0.road == .repack && $0.view == nil }
            try convert(folder.file("a"), folder.file("direct"), to: second)
            try convert(folder.file("bf16"), folder.file("through"), to: second)
            if origin.weights.contains(where: { $0.layout?.exceedsBF16 == true }), second == "f32" || first == "f32" && second == "f16" {
                let direct = try Checkpoint(opening: folder.file("direct"))
                let others = Dictionary(uniqueKeysWithValues: direct.weights.map { ($0.name, $0) })
                for weight in origin.weights {
                    let other = try #require(others[weight.name]), rows = 0..<weight.shape.rows
                    let type = try #require(other.layout?.denseType)
                    let expected = try origin.floats(of: weight, rows: rows).map { type.rounded($0) }
                    #expect(try direct.floats(of: other, rows: rows) == expected, "\(first) -> \(second), \(weight.name)")
                    if second == "f32" {
                        #expect(try direct.values(of: other, rows: rows) == origin.values(of: weight, rows: rows), "\(first), \(weight.name)")
                    }
                }
            } else if repacked == 0 {
                #expect(try storedTensors(folder.file("direct")) == storedTensors(folder.file("through")), "\(first) -> \(second)")
            } else {
                let audit = try WeightAudit(reference: origin, candidate: Checkpoint(opening: folder.file("direct")))
                #expect(audit.identical >= repacked, "\(first) -> \(second)")
            }
            for name in ["direct", "through"] { try FileManager.default.removeItem(atPath: folder.file(name)) }
        }
    }

    @Test(arguments: layouts) func bytesDoNotDependOnJobsMemoryOrShards(_ target: String) throws {
        for (name, model) in Self.sources() {
            let folder = try TemporaryDirectory()
            try model.build().write(to: folder.file("source"))
            try convert(folder.file("source"), folder.file("reference"), to: target)
            let reference = try directoryContents(folder.file("reference"))
            for options in [RunOptions(memory: 2 << 30, jobs: 1), RunOptions(memory: 64 << 20, jobs: 8), RunOptions(memory: 1 << 20, jobs: 3)] {
                try convert(folder.file("source"), folder.file("other"), to: target, options: options)
                #expect(try directoryContents(folder.file("other")) == reference, "\(name), \(options)")
                try FileManager.default.removeItem(atPath: folder.file("other"))
            }
            try convert(folder.file("source"), folder.file("cut"), to: target, shardSize: 100_000)
            #expect(try storedTensors(folder.file("cut")) == storedTensors(folder.file("reference")))
            let checkpoint = try Checkpoint(opening: folder.file("cut"))
            #expect(checkpoint.unpaired.isEmpty && checkpoint.findings.isEmpty && checkpoint.files.count > 3)
        }
    }

    @Test func keepingAndConvertingToTheSameLayoutPassesBytesThrough() throws {
        let folder = try TemporaryDirectory()
        let source = try storedTensors(Fixtures.fp8Model)
        for target in ["keep", "fp8-block"] {
            let report = try convert(Fixtures.fp8Model, folder.file(target), to: target)
            #expect(report.audit.roads == [.passthrough: 221])
            #expect(try storedTensors(folder.file(target)) == source)
        }
        #expect(
            try JSONValue(parsing: FileTree.read(folder.file("keep/config.json"), limit: 1 << 20))
                == JSONValue(parsing: Fixtures.bytes("tiny-deepseek-v3-fp8/config.json")))
    }

    /// A router that is stored in F32 stays so, and is named to the readers that ask for it as one in BF16 is.
    @Test func routersInF32StayF32() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("f32"), to: "f32")
        for target in ["bf16", "f16", "int4-g128", "fp8-block"] {
            try convert(folder.file("f32"), folder.file(target), to: target)
            let routers = try storedTensors(folder.file(target)).filter { $0.key.hasSuffix("mlp.gate.weight") }
            #expect(routers.count == 4 && routers.values.allSatisfy { $0.type == "F32" }, "\(target)")
        }
        let config = try String(decoding: FileTree.read(folder.file("f32/config.json"), limit: 1 << 20), as: UTF8.self)
        let other = config.replacing("deepseek_v3", with: "qwen3_moe")
        try FileTree.write(Array(other.utf8), to: folder.file("f32/config.json"), temporary: folder.file("f32/config.json.new"))
        let plan = try ConversionPlan(converting: Checkpoint(opening: folder.file("f32")), choice: LayoutChoice(target: "awq"))
        let text = String(decoding: try #require(plan.texts.first { $0.name == "config.json" }).bytes, as: UTF8.self)
        #expect(text.contains(#""model.layers.1.mlp.gate""#))
    }

    @Test func theSelectionBiasStaysF32() throws {
        let folder = try TemporaryDirectory()
        for target in Self.layouts {
            try convert(Fixtures.fp8Model, folder.file(target), to: target)
            let biases = try storedTensors(folder.file(target)).filter { $0.key.hasSuffix("e_score_correction_bias") }
            #expect(biases.count == (target.hasPrefix("mlx") ? 3 : 4) && biases.values.allSatisfy { $0.type == "F32" }, "\(target)")
        }
    }

    @Test func denseTypesCastStraight() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        let values: [Float] = [1.00048828125, -65504, 1e-7, 3.14159274]
        builder.add("layers.0.w.weight", .f32, [2, 2], values.flatMap { CheckpointBuilder.bytes($0.bitPattern) })
        try builder.write(to: folder.file("f32"))
        let report = try convert(folder.file("f32"), folder.file("f16"), to: "f16")
        #expect(report.audit.roads == [.cast: 1])
        let checkpoint = try Checkpoint(opening: folder.file("f16"))
        let stored = try checkpoint.files[0].read(8, at: checkpoint.weights[0].stored[0].offset)
        #expect(stored == values.flatMap { CheckpointBuilder.bytes(Binary16(rounding: $0).bits) })
    }

    @Test func emptyAndScalarAndStackedTensorsSurviveEveryTarget() throws {
        for target in Self.layouts + ["keep"] {
            let folder = try TemporaryDirectory()
            var random = SeededGenerator(5)
            var builder = CheckpointBuilder()
            builder.add("layers.0.empty.weight", .bf16, [0, 128], [])
            builder.add("layers.0.none.weight", .bf16, [128, 0], [])
            builder.add("layers.0.scalar.weight", .bf16, [], [0x80, 0x3F])
            builder.addBF16("layers.0.row.weight", [1, 128], &random)
            builder.addBF16("layers.0.stack.weight", [3, 4, 128], &random)
            builder.addBF16("layers.0.column.weight", [129, 1], &random)
            try builder.write(to: folder.file("source"))
            if let named = LayoutRegistry.target(named: target), named.layout.needsDescription, named.besideExperts == nil {
                // Without a configuration nobody could tell what was written.
                #expect(throws: ConversionFailure.self) { try convert(folder.file("source"), folder.file("none"), to: target) }
                builder.config["model_type"] = .string("made-up")
                try builder.write(to: folder.file("source"))
            }
            try convert(folder.file("source"), folder.file("out"), to: target)
            try convert(folder.file("out"), folder.file("back"), to: "bf16")
            let back = try storedTensors(folder.file("back"))
            #expect(
                back.count == 6 && back["layers.0.stack.weight"]?.shape == [3, 4, 128] && back["layers.0.scalar.weight"]?.shape == [], "\(target)")
        }
    }
}
