import Foundation
import Recast
import TestSupport
import Testing

@Suite struct SweepTests {
    static let calibration = (try? TokenBatch(reading: Fixtures.path("tokens-calibration.json")).sequences(0..<6)) ?? TokenBatch([[0]])
    static let evaluation = (try? TokenBatch(reading: Fixtures.path("tokens-eval.json")).sequences(0..<6)) ?? TokenBatch([[0]])

    static func sweep(_ request: SweepRequest, _ journal: String, stop: StopToken = StopToken(), progress: @escaping (String) -> Void = { _ in })
        throws
        -> SweepResult
    {
        try Sweep(
            Checkpoint(opening: Fixtures.bf16Model), request, evaluation: evaluation, calibration: calibration, evidence: "", stop: stop,
            progress: progress
        ).run(journalPath: journal)
    }

    /// A point's figures are those of the converted checkpoint.
    @Test func inFlightIsAsConverted() throws {
        let folder = try TemporaryDirectory()
        let result = try Self.sweep(
            SweepRequest(layouts: ["int4-g128", "mxfp4", "mlx-4bit", "nvfp4"], quantizers: [.rtn, .gptq]), folder.file("j"))
        #expect(
            result.points.map(\.name) == [
                "int4-g128 by rtn", "int4-g128 by gptq", "mxfp4 by rtn", "mlx-4bit by rtn", "mlx-4bit by gptq", "nvfp4 by rtn",
            ])
        for point in result.points {
            let checkpoint = try Checkpoint(opening: Fixtures.bf16Model)
            let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: point.layout, quantizer: point.quantizer))
            let destination = folder.file(point.name)
            let stage = Calibration(checkpoint, tokens: Self.calibration)
            let report = try ConversionRun(
                plan: plan, checkpoint: checkpoint, destination: destination, calibration: plan.calibrated.isEmpty ? nil : stage
            ).execute()
            #expect(report.outputBytes == point.outputBytes)
            let trial = try ForwardTrial(.checkpoint(checkpoint), Checkpoint(opening: destination), tokens: Self.evaluation)
            let found = trial.comparison.predictions
            #expect(abs(found.kld.mean - point.kld) <= 1e-9 + 1e-6 * point.kld, "\(point.name): \(found.kld.mean) and \(point.kld)")
            #expect(found.top1 == point.top1 && abs(found.candidatePerplexity - point.perplexity) < 1e-9)
        }
    }

    @Test func stoppedSweepsGoOn() throws {
        let folder = try TemporaryDirectory()
        let request = SweepRequest(
            layouts: ["int2-g128-asym", "int4-g128-asym", "int8-g128-asym"], quantizers: [.rtn], measuresSensitivity: true, target: .bits(4.25))
        let whole = try Self.sweep(request, folder.file("whole"))
        let stop = StopToken()
        var seen = 0
        #expect(throws: ReferenceFailure.interrupted) {
            try Self.sweep(request, folder.file("parts"), stop: stop) { _ in
                seen += 1
                if seen == 20 { stop.stop() }
            }
        }
        // A torn last line, as a killed process leaves it.
        let handle = try #require(FileHandle(forWritingAtPath: folder.file("parts")))
        try handle.seekToEnd()
        try handle.write(contentsOf: Data("{\"key\": \"abc".utf8))
        try handle.close()
        var later = 0
        let again = try Self.sweep(request, folder.file("parts")) { _ in later += 1 }
        #expect(again.points == whole.points && again.sensitivities == whole.sensitivities && again.mix == whole.mix)
        var nothing = 0
        _ = try Self.sweep(request, folder.file("whole")) { _ in nothing += 1 }
        #expect(seen == 20 && later > 0 && nothing == 0)
        let subject = ParitySubject(reference: "model", candidate: "", command: "recast sweep")
        let texts = [whole, again].map { SweepOutput($0, subject: subject, tokens: 1) }
        #expect(texts[0].csv == texts[1].csv && JSONValue.object(texts[0].json).text() == JSONValue.object(texts[1].json).text())

        // The mix keeps to its budget, beats what is larger, and its recipe is what `convert` reads.
        let mix = try #require(whole.mix)
        let point = try #require(whole.points.last)
        #expect(point.bits <= 4.25 && point.bits > 3.5)
        let uniform = try #require(whole.points.first { $0.layout == "int4-g128-asym" })
        #expect(uniform.bits < point.bits + 0.2 && point.kld < uniform.kld)
        let recipe = try Recipe(yaml: mix.recipe.yaml, path: "mix")
        #expect(recipe == mix.recipe)
        try convert(Fixtures.bf16Model, folder.file("out"), to: mix.layout, recipe: recipe)
        let trial = try ForwardTrial(
            .checkpoint(Checkpoint(opening: Fixtures.bf16Model)), Checkpoint(opening: folder.file("out")), tokens: Self.evaluation)
        #expect(abs(trial.comparison.predictions.kld.mean - point.kld) < 1e-6 * point.kld)
        try SweepOutput(whole, subject: subject, tokens: 1).write(stem: folder.file("page"))
        let page = try String(contentsOfFile: folder.file("page.html"), encoding: .utf8)
        for piece in ["<svg", "class=\"heat\"", "int8-g128-asym", "--recipe page.recipe.yaml", "layer 3"] {
            #expect(page.contains(piece), "\(piece)")
        }
        #expect(!page.contains("http") && !page.contains("<script"))
        #expect(try Recipe(reading: folder.file("page.recipe.yaml")) == mix.recipe)
    }

    @Test func budgetsAreMet() throws {
        let folder = try TemporaryDirectory()
        var request = SweepRequest(layouts: ["int2-g128-asym", "int4-g128-asym", "int8-g128-asym"], target: .bytes(7_000_000))
        let within = try Self.sweep(request, folder.file("j"))
        #expect(try #require(within.points.last).outputBytes <= 7_000_000)
        request.target = .kld(0.002)
        let close = try Self.sweep(request, folder.file("j"))
        #expect(try #require(close.points.last).kld <= 0.002)
        request.target = .bits(1)
        #expect(throws: SweepFailure.self) { try Self.sweep(request, folder.file("j")) }
        request.target = .bytes(1000)
        #expect(throws: SweepFailure.self) { try Self.sweep(request, folder.file("j")) }
    }

    @Test func theKnapsackIsSolved() {
        var random = SeededGenerator(8)
        for _ in 0..<200 {
            let units = (0..<Int.random(in: 1...6, using: &random)).map { _ in
                (0..<Int.random(in: 1...4, using: &random)).map { index in
                    UnitCost(layout: "\(index)", bytes: Int.random(in: 1...60, using: &random), kld: Double(Int.random(in: 0...50, using: &random)))
                }
            }
            let budget = Int.random(in: 1...240, using: &random)
            var best: Double?
            func search(_ unit: Int, _ bytes: Int, _ kld: Double) {
                if bytes > budget { return }
                guard unit < units.count else { return best = min(best ?? kld, kld) }
                for cost in units[unit] { search(unit + 1, bytes + cost.bytes, kld + cost.kld) }
            }
            search(0, 0, 0)
            let chosen = BudgetedMix.choose(units, budget: budget)
            #expect((chosen == nil) == (best == nil))
            guard let chosen, let best else { continue }
            let sums = zip(units, chosen).map { $0[$1] }
            #expect(sums.reduce(0) { $0 + $1.bytes } <= budget && sums.reduce(0) { $0 + $1.kld } == best)
        }
    }
}
