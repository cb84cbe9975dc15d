import Foundation
import Recast
import TestSupport
import Testing

/// Conversions whose quantizers learn from the model's activations.
@Suite struct CalibratedConversionTests {
    static let calibration: TokenBatch = {
        let all = try? TokenBatch(reading: Fixtures.path("tokens-calibration.json"))
        return all?.sequences(0..<12) ?? TokenBatch([[0]])
    }()
    static let evaluation: TokenBatch = {
        let all = try? TokenBatch(reading: Fixtures.path("tokens-eval.json"))
        return all?.sequences(0..<10) ?? TokenBatch([[0]])
    }()

    @discardableResult
    static func convert(
        _ source: String, _ destination: String, to target: String, by quantizer: QuantizerName, recipe: Recipe = Recipe(),
        settings: CalibrationSettings = CalibrationSettings(), options: RunOptions = RunOptions(), stop: StopToken = StopToken(),
        finished: @escaping @Sendable (CalibrationReport) -> Void = { _ in }
    ) throws -> RunReport {
        let checkpoint = try Checkpoint(opening: source)
        let choice = try LayoutChoice(target: target, recipe: recipe, quantizer: quantizer, evidence: calibration.digest + settings.summary)
        let plan = try ConversionPlan(converting: checkpoint, choice: choice)
        let stage = Calibration(checkpoint, tokens: calibration, settings: settings, finished: finished)
        return try ConversionRun(plan: plan, checkpoint: checkpoint, destination: destination, calibration: stage, options: options).execute(
            stop: stop)
    }

    static func divergence(_ candidate: String, from reference: String = Fixtures.bf16Model) throws -> Double {
        let trial = try ForwardTrial(.checkpoint(Checkpoint(opening: reference)), Checkpoint(opening: candidate), tokens: evaluation)
        return trial.comparison.predictions.kld.mean
    }

    @Test func feedbackBeatsRoundingAndSearch() throws {
        let folder = try TemporaryDirectory()
        var found: [QuantizerName: Double] = [:]
        for quantizer in [QuantizerName.rtn, .mse, .hqq, .gptq, .awq] {
            let report = try Self.convert(Fixtures.bf16Model, folder.file(quantizer.rawValue), to: "int3-g128-asym", by: quantizer)
            #expect(report.audit.differences == 0)
            found[quantizer] = try Self.divergence(folder.file(quantizer.rawValue))
        }
        let gptq = try #require(found[.gptq])
        for quantizer in [QuantizerName.rtn, .mse, .hqq, .awq] { #expect(gptq < 0.5 * (found[quantizer] ?? 0), "\(found)") }
    }

    @Test(arguments: [QuantizerName.gptq, .awq]) func bytesDependOnNeitherJobsNorMemory(_ quantizer: QuantizerName) throws {
        let folder = try TemporaryDirectory()
        let variants = [RunOptions(jobs: 1), RunOptions(memory: 64 << 20, jobs: 3), RunOptions(memory: 512 << 20, jobs: 2)]
        for (number, options) in variants.enumerated() {
            try Self.convert(Fixtures.fp8Model, folder.file("\(number)"), to: "int4-g128", by: quantizer, options: options)
        }
        let first = try directoryContents(folder.file("0"))
        for number in 1..<variants.count { #expect(try directoryContents(folder.file("\(number)")) == first) }
    }

    /// Rows of gate and up are written apart and have the inputs of the whole: what is chosen for them is the same from stacks and from halves, is no
    /// rounding to nearest, and depends on neither memory nor jobs. AWQ scales whole weights only, and the plan says so.
    @Test func halvesOfExpertsLearnFromTheirInputs() throws {
        let folder = try TemporaryDirectory()
        try GptOssModel.blocks().write(to: folder.file("blocks"))
        try TestSupport.convert(folder.file("blocks"), folder.file("plain"), to: "bf16")
        try GptOssModel.apart(CheckpointBuilder(reading: folder.file("plain"))).write(to: folder.file("apart"))
        let tokens = TokenBatch((0..<12).map { row in (0..<24).map { ($0 * 7 + row * 13) % 50 } })
        func convert(_ source: String, by quantizer: QuantizerName, _ options: RunOptions = RunOptions()) throws -> CheckpointBuilder {
            let checkpoint = try Checkpoint(opening: folder.file(source))
            let choice = try LayoutChoice(target: "int4-g32", quantizer: quantizer, evidence: tokens.digest)
            let plan = try ConversionPlan(converting: checkpoint, choice: choice)
            #expect(plan.notes.contains { "\($0)".contains("have other inputs than it") } == (quantizer == .awq))
            let output = folder.file("\(source)-\(quantizer.rawValue)")
            let stage = Calibration(checkpoint, tokens: tokens, settings: CalibrationSettings(), finished: { _ in })
            let report = try ConversionRun(
                plan: plan, checkpoint: checkpoint, destination: output, calibration: quantizer == .rtn ? nil : stage, options: options
            ).execute()
            #expect(report.audit.differences == 0)
            return try CheckpointBuilder(reading: output)
        }
        let (stacks, nearest) = (try convert("plain", by: .gptq), try convert("plain", by: .rtn))
        let halves = try convert("apart", by: .gptq, RunOptions(memory: 64 << 20, jobs: 1))
        _ = try convert("plain", by: .awq)
        for (name, tensor) in stacks.tensors { #expect(halves[name]?.bytes == tensor.bytes, "\(name)") }
        for half in ["gate_proj", "up_proj"] {
            let name = GptOssModel.parent + "1.\(half).weight_packed"
            #expect(stacks[name] != nil && stacks[name]?.bytes != nearest[name]?.bytes)
        }
    }

    /// Scales folded into norms and rows change nothing but the codes: the layer's outputs are those of the weights over the scales.
    @Test(arguments: ["int4-g128", "awq", "mlx-4bit"]) func scalesAreFoldedExactly(_ layout: String) throws {
        let folder = try TemporaryDirectory()
        try Self.convert(Fixtures.bf16Model, folder.file("out"), to: layout, by: .awq)
        let checkpoint = try Checkpoint(opening: Fixtures.bf16Model)
        let sweep = try Sweep(
            checkpoint, SweepRequest(layouts: [layout], quantizers: [.awq]), evaluation: Self.evaluation, calibration: Self.calibration,
            evidence: "")
        let point = try sweep.run(journalPath: folder.file("journal")).points[0]
        #expect(abs(try Self.divergence(folder.file("out")) - point.kld) < 1e-6 * point.kld)
        let out = try Checkpoint(opening: folder.file("out"))
        let norms = out.weights.filter { $0.name.hasSuffix("norm.weight") }
        let originals = checkpoint.weights.filter { weight in norms.contains { $0.name == weight.name } }
        var changed = 0
        for (norm, original) in zip(norms, originals) {
            let values = try out.values(of: norm, rows: 0..<norm.shape.rows)
            for (a, b) in zip(values, try checkpoint.values(of: original, rows: 0..<original.shape.rows)) {
                // Only the exponent may move.
                #expect(a & 0x807F == b & 0x807F)
                changed += a == b ? 0 : 1
            }
        }
        #expect(changed > 0)
    }

    @Test(arguments: [1, 40, 90, 150, 205, 300]) func stoppedConversionsEndInTheSameBytes(afterLines lines: Int) throws {
        let folder = try TemporaryDirectory()
        try Self.convert(Fixtures.bf16Model, folder.file("whole"), to: "gptq", by: .gptq)
        let stop = StopToken()
        let journal = folder.file("out/.recast/journal")
        let watch = Thread {
            while !stop.isStopped {
                let text = (try? String(contentsOfFile: journal, encoding: .utf8)) ?? ""
                if text.split(separator: "\n").count > lines { stop.stop() }
            }
        }
        watch.start()
        do {
            try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "gptq", by: .gptq, options: RunOptions(jobs: 1), stop: stop)
        } catch let failure as any Failure {
            #expect(failure.kind == .interrupted)
            #expect(!FileManager.default.fileExists(atPath: folder.file("out/recast.manifest.json")))
        }
        stop.stop()
        try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "gptq", by: .gptq)
        #expect(try directoryContents(folder.file("out")) == directoryContents(folder.file("whole")))
    }

    @Test func damageIsFoundAndMadeGood() throws {
        let folder = try TemporaryDirectory()
        try Self.convert(Fixtures.bf16Model, folder.file("whole"), to: "int4-g128", by: .gptq)
        let stop = StopToken()
        let journal = folder.file("out/.recast/journal")
        let watch = Thread {
            while !stop.isStopped {
                if ((try? String(contentsOfFile: journal, encoding: .utf8)) ?? "").contains("\"calibration\"") { stop.stop() }
            }
        }
        watch.start()
        #expect(throws: ConversionFailure.self) {
            try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "int4-g128", by: .gptq, options: RunOptions(jobs: 1), stop: stop)
        }
        stop.stop()
        // A byte of a calibrated weight changes between writing and audit.
        let work = folder.file("out/.recast")
        let shard = try #require(try FileManager.default.contentsOfDirectory(atPath: work).sorted().last { $0.hasSuffix(".safetensors") })
        let file = try PositionedFile.openForWriting(work + "/" + shard)
        let header = try SafetensorsHeader(reading: file)
        let packed = try #require(header.tensors.first { $0.name.hasSuffix("down_proj.weight_packed") })
        let byte = try file.read(1, at: packed.offset)[0]
        try file.write([byte ^ 1], at: packed.offset)
        #expect(throws: ConversionFailure.self) { try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "int4-g128", by: .gptq) }
        try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "int4-g128", by: .gptq)
        #expect(try directoryContents(folder.file("out")) == directoryContents(folder.file("whole")))
    }

    @Test func expertsThatFewTokensReachTakeTheInputsOfAll() throws {
        final class Box: @unchecked Sendable { var report = CalibrationReport() }
        let folder = try TemporaryDirectory()
        let box = Box()
        var settings = CalibrationSettings()
        settings.expertFloor = 900
        try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "int4-g128", by: .gptq, settings: settings) { box.report = $0 }
        #expect(!box.report.pooled.isEmpty)
        #expect(box.report.pooled.allSatisfy { $0.name.contains(".experts.") && $0.tokens < 900 })
        // kv_b_proj has too few columns for groups of 128.
        #expect(box.report.calibrated == 179)
        #expect(try Self.divergence(folder.file("out")) < 0.01)
    }

    @Test func keptRoutingIsTheOriginals() throws {
        let folder = try TemporaryDirectory()
        var settings = CalibrationSettings()
        settings.keepsRouting = true
        try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "int2-g128-asym", by: .gptq, settings: settings)
        try Self.convert(Fixtures.bf16Model, folder.file("other"), to: "int2-g128-asym", by: .gptq)
        #expect(try directoryContents(folder.file("out")) != directoryContents(folder.file("other")))
        #expect(try Self.divergence(folder.file("out")) < 0.1)
    }

    /// What no recipe names keeps the command's quantizer; what one names takes its own.
    @Test func recipesNameQuantizers() throws {
        let folder = try TemporaryDirectory()
        let yaml =
            "rules:\n  - match: \"*.mlp.experts.*\"\n    to: int4-g128\n    quantizer: gptq\n  - match: \"*.self_attn.*_proj*\"\n    to: int8-channel\n"
        let recipe = try Recipe(yaml: yaml, path: "test")
        #expect(recipe.yaml == yaml)
        try Self.convert(Fixtures.bf16Model, folder.file("out"), to: "int4-g128", by: .mse, recipe: recipe)
        let manifest = try JSONValue(parsing: [UInt8](Data(contentsOf: URL(fileURLWithPath: folder.file("out/recast.manifest.json")))))
        for weight in manifest["weights"]?.array ?? [] where weight["road"]?.string == "quantize" {
            let name = weight["name"]?.string ?? ""
            #expect(weight["quantizer"]?.string == (name.contains(".mlp.experts.") ? "gptq" : "mse"), "\(name)")
        }
        #expect(throws: ConversionFailure.self) { try Recipe(yaml: "rules:\n  - match: a\n    to: bf16\n    quantizer: best\n", path: "test") }
    }

    @Test func layoutsWithoutASearchSaySo() throws {
        let checkpoint = try Checkpoint(opening: Fixtures.bf16Model)
        for (layout, quantizer) in [("mxfp4", QuantizerName.gptq), ("nvfp4", .hqq), ("fp8-block", .gptq), ("fp8-channel", .awq)] {
            #expect(throws: ConversionFailure.self) {
                try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: layout, quantizer: quantizer))
            }
        }
    }

    @Test func statisticsComeBack() throws {
        let folder = try TemporaryDirectory()
        let checkpoint = try Checkpoint(opening: Fixtures.bf16Model)
        let statistics = try StatisticsPass.statistics(of: checkpoint, tokens: Self.calibration)
        try statistics.write(to: folder.file("s"))
        let again = try InputStatistics(reading: folder.file("s"))
        #expect(again.entries == statistics.entries && again.digest == statistics.digest)
        let one = try #require(statistics.entries["model.layers.0.self_attn.q_a_proj"])
        #expect(one.count == Self.calibration.count && one.meanSquares.count == 256)
        let layer = statistics.entries.filter { $0.key.hasPrefix("model.layers.2.mlp.experts.") && $0.key.hasSuffix("up_proj") }
        #expect(layer.values.reduce(0) { $0 + $1.count } == 4 * Self.calibration.count)
        // Damaged files are refused with a sentence, never a trap.
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder.file("s"))))
        var random = SeededGenerator(4)
        for _ in 0..<300 {
            var damaged = bytes
            for _ in 0..<4 { damaged[Int.random(in: 0..<min(bytes.count, 40_000), using: &random)] = UInt8.random(in: 0...255, using: &random) }
            if Bool.random(using: &random) { damaged.removeLast(Int.random(in: 1..<bytes.count, using: &random)) }
            try Data(damaged).write(to: URL(fileURLWithPath: folder.file("d")))
            do { _ = try InputStatistics(reading: folder.file("d")) } catch is any Failure {}
        }
    }

    /// Compares the codes that both forms of the factor give for the first rows of each weight, with the model's own activations.
    private final class FormComparison: WeightObserver {
        let checkpoint: Checkpoint
        var weights = 0, codes = 0, differing = 0, misses = 0
        var losses = (dense: 0.0, lowRank: 0.0)

        init(_ checkpoint: Checkpoint) { self.checkpoint = checkpoint }

        func willUse(_ names: [String], inputs: ObservedInputs, pooled: ObservedInputs?) throws {
            guard LowRankFactor.pays(tokens: inputs.count, columns: inputs.columns) else { return }
            let order = Array(0..<inputs.columns)
            var ordered = try OrderedInputs(order: order, count: inputs.count)
            let sums = try SecondMoments(order: order, workers: 2)
            try inputs.visit {
                let rows = InputRows(base: UnsafePointer($0.base), rows: $0.rows, columns: $0.columns)
                ordered.add(rows)
                try sums.add(rows)
            }
            let factors: [any FeedbackFactor] = [
                try DenseFactor(sums, damping: 0.01, workers: 2), try LowRankFactor(ordered, damping: 0.01, workers: 2),
            ]
            for name in names {
                let weight = try #require(checkpoint.weights.first { $0.name == name })
                let rows = 0..<min(64, weight.shape.rows)
                let values = try checkpoint.values(of: weight, rows: rows).map { BFloat16(bits: $0).value }
                let matrix = WeightRows(values: values, rows: rows.count, columns: weight.shape.columns)
                let grid = IntegerGrid(bits: 4, groupSize: 128, zeroPoints: .middle, scaleType: .bf16)
                let groups = ScaleSearch.search(matrix, on: grid, importance: nil).groups
                let found = try factors.map { factor in
                    let feedback = try ErrorFeedback(factor, matrix, on: grid)
                    let rounding = try feedback.round(groups)
                    return (codes: try feedback.chosen(rounding).codes, loss: rounding.losses.reduce(0.0) { $0 + Double($1) })
                }
                weights += 1
                codes += values.count
                differing += zip(found[0].codes, found[1].codes).count { $0 != $1 }
                losses.dense += found[0].loss
                losses.lowRank += found[1].loss
                if abs(found[0].loss - found[1].loss) > 0.01 * found[0].loss { misses += 1 }
            }
        }

        func didUse(_ names: [String]) {}
        func routing(layer: Int) -> Routing? { nil }
    }

    /// Few tokens, as experts see: through their rank feedback finds the dense factor's codes but for those that hang on a hair, and what follows these.
    @Test(arguments: [5, 24, 40]) func fewInputsGiveTheCodesOfTheDenseFactor(tokens: Int) throws {
        let checkpoint = try Checkpoint(opening: Fixtures.bf16Model)
        let comparison = FormComparison(checkpoint)
        let text = TokenBatch([Array(Self.evaluation.all.prefix(tokens))])
        let pass = try ForwardPass(checkpoint, tokens: text, observer: comparison)
        while !pass.isDone { try pass.step() }
        #expect(comparison.weights > 20 && comparison.codes > 500_000, "\(comparison.weights) weights, \(comparison.codes) codes")
        #expect(comparison.differing * 5000 < comparison.codes, "\(comparison.differing) of \(comparison.codes) codes")
        #expect(abs(comparison.losses.dense - comparison.losses.lowRank) < 1e-3 * comparison.losses.dense, "\(comparison.losses)")
        // Of a row a few codes follow one that fell the other way: that moves a loss of 64 rows by a hundredth in few weights only.
        #expect(comparison.misses * 50 < comparison.weights, "\(comparison.misses) of \(comparison.weights) weights")
    }
}
