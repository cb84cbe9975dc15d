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
        return ParityVerdict(weights: audit, forward: forward, claims: ParityClaims(from: left, to: right))
    }

    @Test func anUntouchedCopyPasses() throws {
        let verdict = try verify { _ in }
        #expect(verdict.passed && verdict.forward?.comparison.predictions.kld.maximum == 0 && verdict.forward?.comparison.predictions.top1 == 1)
        #expect(verdict.forward?.comparison.layers.allSatisfy { $0.sqnr == .infinity && $0.cosine == 1 } == true)
        #expect(
            verdict.forward?.comparison.layers.dropFirst().allSatisfy { $0.expertAgreement == 1 && $0.flippedGroups == 0 && $0.weightShift == 0 }
                == true)
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

    /// Every tensor of two layers under the other's name, as when the files of two shards change places.
    @Test func aSwappedShardIsNamedByItsLayers() throws {
        let verdict = try verify { builder in
            for tensor in builder.tensors where tensor.name.hasPrefix("model.layers.1.") {
                let other = tensor.name.replacing("model.layers.1.", with: "model.layers.2.")
                let bytes = builder[other]!.bytes
                builder[other]?.bytes = tensor.tensor.bytes
                builder[tensor.name]?.bytes = bytes
            }
        }
        let different = (verdict.weights?.weights ?? []).filter { !$0.isIdentical }
        #expect(
            !verdict.passed && different.count > 80
                && different.allSatisfy { $0.name.hasPrefix("model.layers.1.") || $0.name.hasPrefix("model.layers.2.") })
        #expect(verdict.forward?.comparison.worstStep?.layer == 1 && verdict.forward?.comparison.layers[0].sqnr == .infinity)
    }

    /// Two shard files under each other's name: the index does not fit, so nothing is compared at all.
    @Test func shardFilesThatChangedPlacesAreRefused() throws {
        let folder = try TemporaryDirectory()
        try FileManager.default.copyItem(atPath: Fixtures.fp8Model, toPath: folder.file("m"))
        let names = [2, 3].map { folder.file("m/model-0000\($0)-of-000004.safetensors") }
        try FileManager.default.moveItem(atPath: names[0], toPath: folder.file("x"))
        try FileManager.default.moveItem(atPath: names[1], toPath: names[0])
        try FileManager.default.moveItem(atPath: folder.file("x"), toPath: names[1])
        let failure = #expect(throws: SafetensorsFailure.self) { try Checkpoint(opening: folder.file("m")) }
        #expect("\(String(describing: failure))".contains("-of-000004.safetensors"))
    }

    /// Rows of queries and keys reordered as if pairs were (i, i + n/2) instead of (2i, 2i + 1): the classic conversion mistake.
    @Test func halfSplitRotaryRowsAreCaught() throws {
        let c = try ModelConfiguration(config: Checkpoint(opening: Fixtures.fp8Model).config)
        guard case .latent(let sizes) = c.attention else { fatalError("the model has latent attention") }
        var modules: [(name: String, starts: [Int])] = []
        for layer in 0..<c.layers {
            let prefix = "model.layers.\(layer).self_attn."
            modules.append((prefix + "kv_a_proj_with_mqa", [sizes.latentRank]))
            modules.append((prefix + "q_b_proj", (0..<c.heads).map { $0 * (sizes.nopeSize + sizes.ropeSize) + sizes.nopeSize }))
        }
        let verdict = try verify { builder in
            for module in modules {
                let tensor = builder[module.name + ".weight"]!
                let columns = tensor.shape[1]
                var rows = (0..<tensor.shape[0]).map { Array(tensor.bytes[($0 * columns)..<(($0 + 1) * columns)]) }
                for start in module.starts {
                    let rope = Array(rows[start..<(start + sizes.ropeSize)])
                    for i in 0..<sizes.ropeSize / 2 {
                        rows[start + i] = rope[2 * i]
                        rows[start + sizes.ropeSize / 2 + i] = rope[2 * i + 1]
                    }
                }
                builder[module.name + ".weight"]?.bytes = Array(rows.joined())
            }
        }
        let worst = Set((verdict.weights?.weights.prefix(modules.count) ?? []).map(\.name))
        #expect(!verdict.passed && worst == Set(modules.map { $0.name + ".weight" }))
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
