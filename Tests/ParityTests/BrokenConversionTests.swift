import Foundation
import Recast
import TestSupport
import Testing

/// Deliberately broken conversions of the small model: each is caught, and the report names the culprit first.
@Suite struct BrokenConversionTests {
    static let tokens = TokenBatch([Array("First Citizen: Before we proceed any further, hear me speak.".utf8).map { Int($0) }])

    /// The FP8 model in memory, to be broken and written again.
    func model() throws -> CheckpointBuilder {
        let checkpoint = try Checkpoint(opening: Fixtures.fp8Model)
        var builder = CheckpointBuilder()
        for tensor in checkpoint.weights.flatMap(\.stored) {
            builder.add(
                tensor.name, tensor.type, tensor.shape, try checkpoint.files[tensor.file].read(tensor.byteCount, at: tensor.offset), file: tensor.file
            )
        }
        builder.config = try #require(checkpoint.config.object)
        return builder
    }

    func verify(_ change: (inout CheckpointBuilder) throws -> Void) throws -> ParityVerdict {
        let folder = try TemporaryDirectory()
        var builder = try model()
        try change(&builder)
        try builder.write(to: folder.file("broken"))
        let (left, right) = (try Checkpoint(opening: Fixtures.fp8Model), try Checkpoint(opening: folder.file("broken")))
        let audit = try WeightAudit(reference: left, candidate: right)
        var forward: ForwardTrial?
        if audit.isComplete { forward = try ForwardTrial(.checkpoint(left), right, tokens: Self.tokens) }
        return ParityVerdict(weights: audit, forward: forward, claim: ParityClaim(from: left, to: right))
    }

    @Test func anUntouchedCopyPasses() throws {
        let verdict = try verify { _ in }
        #expect(verdict.passed && verdict.forward?.comparison.predictions.kld.maximum == 0 && verdict.forward?.comparison.predictions.top1 == 1)
        #expect(verdict.forward?.comparison.layers.allSatisfy { $0.sqnr == .infinity && $0.cosine == 1 } == true)
        #expect(verdict.forward?.comparison.layers.dropFirst().allSatisfy { $0.expertAgreement == 1 && $0.flippedGroups == 0 && $0.weightShift == 0 } == true)
    }

    @Test func twoSwappedWeightsAreNamed() throws {
        let names = ["model.layers.2.mlp.experts.3.up_proj.weight", "model.layers.2.mlp.experts.8.up_proj.weight"]
        let verdict = try verify { builder in
            let bytes = names.map { builder[$0]!.bytes }
            builder[names[0]]?.bytes = bytes[1]
            builder[names[1]]?.bytes = bytes[0]
        }
        #expect(!verdict.passed && Set((verdict.weights?.weights.prefix(2) ?? []).map(\.name)) == Set(names))
    }

    @Test func aTransposedExpertIsNamed() throws {
        let name = "model.layers.3.mlp.experts.5.gate_proj.weight"
        let verdict = try verify { builder in
            let bytes = builder[name]!.bytes
            builder[name]?.bytes = (0..<256 * 256).map { bytes[$0 % 256 * 256 + $0 / 256] }
        }
        #expect(!verdict.passed && verdict.weights?.weights[0].name == name && verdict.claim.contains(name))
    }

    @Test func aScaleOffByTwoIsNamedAndItsLayerPartsFirst() throws {
        let module = "model.layers.1.self_attn.o_proj"
        let verdict = try verify { builder in
            let floats = builder[module + ".weight_scale_inv"]!.bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
            builder[module + ".weight_scale_inv"]?.bytes = floats.flatMap { CheckpointBuilder.bytes(($0 * 2).bitPattern) }
        }
        #expect(!verdict.passed && verdict.weights?.weights[0].name == module + ".weight")
        #expect(verdict.forward?.comparison.worstStep?.layer == 1 && verdict.forward?.comparison.layers[0].sqnr == .infinity)
        #expect((verdict.forward?.comparison.predictions.kld.mean ?? 0) > 1e-4)
    }

    @Test func aDroppedMultiTokenPredictionTensorIsNamed() throws {
        let name = "model.layers.4.eh_proj.weight"
        let verdict = try verify { $0[name] = nil }
        #expect(!verdict.passed && verdict.weights?.missing == [name] && verdict.claim.contains(name))
    }

    /// Rows reordered as if pairs were (i, i + 8) instead of (2i, 2i + 1): the classic conversion mistake.
    @Test func halfSplitRotaryRowsAreCaught() throws {
        let modules = (0..<4).map { "model.layers.\($0).self_attn.kv_a_proj_with_mqa" }
        let verdict = try verify { builder in
            for module in modules {
                let bytes = builder[module + ".weight"]!.bytes
                var rows = (0..<80).map { Array(bytes[($0 * 256)..<(($0 + 1) * 256)]) }
                let rope = Array(rows[64...])
                for i in 0..<8 {
                    rows[64 + i] = rope[2 * i]
                    rows[64 + 8 + i] = rope[2 * i + 1]
                }
                builder[module + ".weight"]?.bytes = Array(rows.joined())
            }
        }
        #expect(!verdict.passed && Set((verdict.weights?.weights.prefix(4) ?? []).map(\.name)) == Set(modules.map { $0 + ".weight" }))
        #expect((verdict.forward?.comparison.predictions.kld.mean ?? 0) > 1e-4 && verdict.forward?.comparison.worstStep?.layer == 0)
    }

    @Test func modelsOfOtherSizesAreRefused() throws {
        let folder = try TemporaryDirectory()
        var builder = try model()
        builder.config["num_hidden_layers"] = .int(3)
        try builder.write(to: folder.file("m"))
        #expect(throws: ParityFailure.differentModels) {
            try ForwardTrial(
                .checkpoint(Checkpoint(opening: Fixtures.fp8Model)), Checkpoint(opening: folder.file("m")), tokens: Self.tokens)
        }
    }

    @Test func figuresAreThoseOfTheirFormulas() throws {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 - 1/4 ln 2.
        let p: [Float] = [Float(log(0.5)), Float(log(0.25)), Float(log(0.25))], q: [Float] = [Float(log(0.25)), Float(log(0.5)), Float(log(0.25))]
        #expect(abs(LogProbabilities(p, 3).divergence(to: LogProbabilities(q, 3)) - 0.25 * log(2)) < 1e-7)
        #expect(LogProbabilities(p, 3).ranked(2) == [0, 1] && LogProbabilities(q, 3).ranked(3) == [1, 0, 2])
    }
}
