import Foundation
import Recast
import TestSupport
import Testing

@Suite struct WeightAuditTests {
    func audit(_ a: String, _ b: String, _ options: RunOptions = RunOptions()) throws -> WeightAudit {
        try WeightAudit(reference: Checkpoint(opening: a), candidate: Checkpoint(opening: b), options: options)
    }

    @Test func fp8AndItsBF16AreEqualByValue() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("bf16"), to: "bf16")
        for options in [RunOptions(), RunOptions(memory: 2 << 20, jobs: 3)] {
            let audit = try audit(Fixtures.fp8Model, folder.file("bf16"), options)
            #expect(audit.identical == 221 && audit.different == 0 && audit.isComplete)
            #expect(ParityVerdict(weights: audit, bounds: ParityBounds(exact: true)).passed)
        }
    }

    @Test func quantizationErrorsAreMeasuredAndOrdered() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("int4"), to: "int4-g32")
        let audits = try [RunOptions(), RunOptions(memory: 2 << 20, jobs: 3)].map { try audit(Fixtures.bf16Model, folder.file("int4"), $0) }
        #expect(audits[0].weights == audits[1].weights)
        #expect(audits[0].different == 184 && audits[0].identical == 37)
        #expect(zip(audits[0].weights, audits[0].weights.dropFirst()).allSatisfy { $0.sqnr <= $1.sqnr })
        #expect(audits[0].weights.prefix(184).allSatisfy { $0.sqnr > 15 && $0.sqnr < 40 && $0.cosine > 0.98 && $0.cosine < 1 && $0.maximumError > 0 })
        // The same figures stand in the manifest, computed on the way.
        let manifest = try JSONValue(parsing: FileTree.read(folder.file("int4/recast.manifest.json"), limit: 1 << 24))
        let worst = audits[0].weights[0]
        let entry = manifest["weights"]?.array?.first { $0["name"]?.string == worst.name }
        #expect(entry?["sqnr_db"]?.double == worst.sqnr && entry?["max_abs"]?.double == worst.maximumError)
        #expect(!ParityVerdict(weights: audits[0], bounds: ParityBounds(exact: true)).passed)
        #expect(ParityVerdict(weights: audits[0], bounds: ParityBounds(minimumSQNR: 15)).passed)
        let verdict = ParityVerdict(weights: audits[0], bounds: ParityBounds(minimumSQNR: 45))
        #expect(!verdict.passed && verdict.claim.contains(worst.name))
        #expect(verdict.json["weights"]?["worst"]?.array?[0]["name"]?.string == worst.name)
    }

    @Test func aHandMadeDifferenceHasTheFiguresOfTheFormula() throws {
        let folder = try TemporaryDirectory()
        for (name, values) in [("a", [3, -4, 0, 12] as [Float]), ("b", [3, -4, 1, 10])] {
            var builder = CheckpointBuilder()
            builder.add("w.weight", .f32, [2, 2], values.flatMap { CheckpointBuilder.bytes($0.bitPattern) })
            try builder.write(to: folder.file(name))
        }
        let weight = try audit(folder.file("a"), folder.file("b")).weights[0]
        #expect(weight.different == 2 && weight.maximumError == 2 && weight.values == 4)
        #expect(abs(weight.sqnr - 10 * log10(169.0 / 5)) < 1e-12)
        #expect(abs(weight.rootMeanSquareError - (5.0 / 4).squareRoot()) < 1e-12 && weight.meanError == 0.75)
        #expect(abs(weight.cosine - (9 + 16 + 120) / (169.0 * 126).squareRoot()) < 1e-12)
    }

    @Test func aDroppedAnExtraAndAReshapedWeightFail() throws {
        let folder = try TemporaryDirectory()
        var builder = SyntheticModel().build()
        try builder.write(to: folder.file("a"))
        builder["lm_head.weight"] = nil
        builder["model.layers.0.input_layernorm.weight"]?.shape = [1, 320]
        builder.add("extra.bias", .u8, [1], [0])
        try builder.write(to: folder.file("b"))
        let result = try audit(folder.file("a"), folder.file("b"))
        #expect(
            result.missing == ["lm_head.weight"] && result.extra == ["extra.bias"] && result.reshaped == ["model.layers.0.input_layernorm.weight"])
        let verdict = ParityVerdict(weights: result)
        #expect(!verdict.passed && verdict.claim.contains("lm_head.weight"))
    }

    @Test func theCulpritComesFirst() throws {
        let folder = try TemporaryDirectory()
        let name = "model.layers.1.mlp.experts.4.gate_proj"
        var builder = SyntheticModel().build()
        try builder.write(to: folder.file("a"))
        let scales = builder[name + ".weight_scale_inv"]!.bytes
        builder[name + ".weight_scale_inv"]?.bytes = scales.withUnsafeBytes { raw in
            raw.bindMemory(to: Float.self).flatMap { CheckpointBuilder.bytes(($0 * 2).bitPattern) }
        }
        try builder.write(to: folder.file("b"))
        let worst = try audit(folder.file("a"), folder.file("b")).weights[0]
        #expect(worst.name == name + ".weight" && abs(worst.sqnr) < 0.01)
    }

    /// `verify` on every layout that can be written, weights and forward pass; values are compared as each layout defines them.
    @Test(arguments: LayoutRegistry.targets.filter(\.isListed).map(\.name)) func everyLayoutIsVerified(_ target: String) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("out"), to: target)
        let (reference, candidate) = (try Checkpoint(opening: Fixtures.bf16Model), try Checkpoint(opening: folder.file("out")))
        let audit = try WeightAudit(reference: reference, candidate: candidate)
        #expect(audit.missing.isEmpty && audit.extra.isEmpty && audit.reshaped.isEmpty)
        #expect(audit.leftOut.count == (target.hasPrefix("mlx") ? 56 : 0) && audit.weights.count + audit.leftOut.count == 221)
        let trial = try ForwardTrial(.checkpoint(reference), candidate, tokens: ForwardTrialTests.tokens)
        let mean = trial.comparison.predictions.kld.mean
        let isDense = ["bf16", "f32"].contains(target)
        #expect(isDense ? mean == 0 : mean > 0 && mean < (target.contains("2bit") ? 2 : target.contains("3bit") ? 0.1 : 0.02), "\(target): \(mean)")
        // mlx-lm has no multi-token prediction; what the candidate lacks is for the reader to allow.
        var bounds = ParityBounds()
        #expect(ParityVerdict(weights: audit, forward: trial, bounds: bounds).passed == audit.leftOut.isEmpty)
        bounds.allowsMissingMTP = true
        #expect(ParityVerdict(weights: audit, forward: trial, bounds: bounds).passed)
    }

    /// What may be missing is for the reference to say: a candidate's own config.json excuses nothing, and promises nothing.
    @Test(arguments: [0, 1]) func omissionsAreForgivenByTheReferenceOnly(_ promised: Int) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("out"), to: "mlx-4bit")
        var config = try #require(try JSONValue(parsing: FileTree.read(folder.file("out/config.json"), limit: 1 << 20)).object)
        config["num_nextn_predict_layers"] = .int(promised)
        try FileTree.write(Array(JSONValue.object(config).text().utf8), to: folder.file("out/config.json"))
        let audit = try audit(Fixtures.bf16Model, folder.file("out"))
        #expect(audit.missing.isEmpty && audit.leftOut.count == 56 && !ParityVerdict(weights: audit).passed)
    }
}
