import Foundation
import Recast
import TestSupport
import Testing

/// The property that a verdict stands for: `verify` of a model and a perturbed one never passes, whatever was perturbed and whichever claim
/// the layouts show.
@Suite struct PerturbationTests {
    enum Kind: String, CaseIterable {
        case nan, infinity, sign, swap, drop, duplicate, scale, zero, type, order, bit, truncation, configuration, rename
        /// One value's sign, one scale, one row: too little to show in the figures of a whole weight.
        case oneSign, oneScale, oneRow
    }

    /// The reference's target, the candidate's, and whether the claim between them is exact for weights that were converted.
    static let roads: [(reference: String, candidate: String, isExact: Bool)] = [
        ("bf16", "keep", true), ("fp8-block", "bf16", true), ("fp8-block", "f32", true), ("int4-g32", "mlx-4bit-g32", true),
        ("bf16", "f16", false), ("bf16", "fp8-channel", false), ("bf16", "int8-channel", false), ("bf16", "int4-g32", false),
        ("bf16", "nvfp4", false), ("bf16", "mxfp4", false), ("bf16", "int3-g32-asym", false),
    ]

    static let rounds = 306

    /// A model of a few kilobytes with everything in it.
    static func model() -> CheckpointBuilder {
        var model = SyntheticModel()
        (model.hidden, model.intermediate, model.expertWidth, model.experts, model.layers) = (64, 96, 32, 4, 2)
        (model.queryRank, model.files, model.quantized, model.mtp) = (32, 1, false, false)
        var builder = model.build()
        var random = SeededGenerator(3)
        builder.addBF16("model.norm.weight", [64], scale: 1, &random)
        for layer in 0..<2 { builder.addBF16("model.layers.\(layer).self_attn.kv_a_layernorm.weight", [32], scale: 1, &random) }
        return builder
    }

    /// Whether a verdict is a pass; an error is none.
    static func passes(_ reference: Checkpoint, _ candidate: String) -> Bool {
        do {
            let other = try Checkpoint(opening: candidate)
            let audit = try WeightAudit(reference: reference, candidate: other, options: RunOptions(jobs: 1))
            var bounds = ParityBounds()
            bounds.allowsMissingMTP = true
            return ParityVerdict(weights: audit, bounds: bounds, claims: ParityClaims(from: reference, to: other)).passed
        } catch {
            return false
        }
    }

    @Test(arguments: roads.indices) func nothingPerturbedPasses(_ road: Int) throws {
        let (from, to, isExact) = Self.roads[road]
        let folder = try TemporaryDirectory()
        try Self.model().write(to: folder.file("dense"))
        try convert(folder.file("dense"), folder.file("reference"), to: from)
        try convert(folder.file("reference"), folder.file("candidate"), to: to == "keep" ? from : to)
        let reference = try Checkpoint(opening: folder.file("reference"))
        let control = Self.passes(reference, folder.file("candidate"))
        #expect(control, "\(from) -> \(to): the untouched candidate is the control")
        let sound = try CheckpointBuilder(reading: folder.file("candidate"))
        var random = SeededGenerator(UInt64(road) + 1)
        var tried: [Kind: Int] = [:]
        for round in 0..<Self.rounds {
            let kind = Kind.allCases[round % Kind.allCases.count]
            var broken = sound
            let path = folder.file("broken")
            try? FileManager.default.removeItem(atPath: path)
            guard let what = Self.perturb(&broken, kind, isExact: isExact, reference, &random) else { continue }
            try broken.write(to: path)
            if kind == .truncation {
                let file = path + "/model.safetensors"
                let data = try Data(contentsOf: URL(fileURLWithPath: file))
                try data.dropLast(1 + Int(random.next() % UInt64(data.count - 1))).write(to: URL(fileURLWithPath: file))
            }
            tried[kind, default: 0] += 1
            let passed = Self.passes(reference, path)
            #expect(!passed, "\(from) -> \(to), \(kind.rawValue): \(what)")
        }
        // Not every kind of change can be made to every layout; nearly all can.
        #expect(tried.count >= Kind.allCases.count - 2, "\(tried)")
        #expect(tried.values.reduce(0, +) > Self.rounds * 2 / 3, "\(tried)")
    }

    /// Changes one thing; what, in words, or nil if this tensor cannot be changed so.
    static func perturb(
        _ model: inout CheckpointBuilder, _ kind: Kind, isExact: Bool, _ reference: Checkpoint, _ random: inout SeededGenerator
    ) -> String? {
        let floats: Set<ScalarType> = [.bf16, .f16, .f32]
        func pick(_ condition: (CheckpointBuilder.Tensor) -> Bool) -> Int? {
            let places = model.tensors.indices.filter { condition(model.tensors[$0].tensor) }
            return places.isEmpty ? nil : places[Int(random.next() % UInt64(places.count))]
        }
        /// Scales of random weights are all alike: in another order they are within the bounds of a few bits.
        func isScale(_ name: String) -> Bool { name.contains("scale") || name.contains("zero_point") || name.hasSuffix("biases") }
        func value(_ tensor: CheckpointBuilder.Tensor, _ bits: (bf16: UInt16, f16: UInt16, f32: UInt32)) -> [UInt8] {
            switch tensor.type {
            case .bf16: CheckpointBuilder.bytes(bits.bf16)
            case .f16: CheckpointBuilder.bytes(bits.f16)
            default: CheckpointBuilder.bytes(bits.f32)
            }
        }
        switch kind {
        case .nan, .infinity:
            guard let place = pick({ floats.contains($0.type) && !$0.bytes.isEmpty }) else { return nil }
            let bits: (UInt16, UInt16, UInt32) = kind == .nan ? (0x7FC0, 0x7E00, 0x7FC0_0000) : (0xFF80, 0xFC00, 0xFF80_0000)
            let bytes = value(model.tensors[place].tensor, bits)
            let at = Int(random.next() % UInt64(model.tensors[place].tensor.bytes.count / bytes.count)) * bytes.count
            model.tensors[place].tensor.bytes.replaceSubrange(at..<at + bytes.count, with: bytes)
            return model.tensors[place].name
        case .sign:
            guard let place = pick({ floats.contains($0.type) }) else { return nil }
            let width = model.tensors[place].tensor.type.bitWidth / 8
            for index in stride(from: width - 1, to: model.tensors[place].tensor.bytes.count, by: width) {
                model.tensors[place].tensor.bytes[index] ^= 0x80
            }
            return model.tensors[place].name
        case .zero:
            guard let place = pick({ $0.bytes.contains { $0 != 0 } && floats.contains($0.type) }) else { return nil }
            model.tensors[place].tensor.bytes = [UInt8](repeating: 0, count: model.tensors[place].tensor.bytes.count)
            return model.tensors[place].name
        case .scale:
            // Four times: the exponent's two lowest steps.
            guard let place = pick({ $0.type == .bf16 || $0.type == .f32 }) else { return nil }
            let tensor = model.tensors[place].tensor
            let width = tensor.type.bitWidth / 8
            for index in stride(from: width - 2, to: tensor.bytes.count, by: width) {
                let word = UInt16(tensor.bytes[index]) | UInt16(tensor.bytes[index + 1]) << 8
                guard word & 0x7F80 != 0, word & 0x7F80 < 0x7E00 else { continue }
                let larger = word + 0x100
                (model.tensors[place].tensor.bytes[index], model.tensors[place].tensor.bytes[index + 1]) = (UInt8(larger & 0xFF), UInt8(larger >> 8))
            }
            return model.tensors[place].tensor.bytes == tensor.bytes ? nil : model.tensors[place].name
        case .swap:
            guard let place = pick({ $0.bytes.count > 64 }), isExact || !isScale(model.tensors[place].name) else { return nil }
            let tensor = model.tensors[place].tensor
            let twins = model.tensors.indices.filter {
                let other = model.tensors[$0].tensor
                return $0 != place && other.type == tensor.type && other.shape == tensor.shape && other.bytes != tensor.bytes
            }
            guard let other = twins.first else { return nil }
            model.tensors[place].tensor.bytes = model.tensors[other].tensor.bytes
            model.tensors[other].tensor.bytes = tensor.bytes
            return "\(model.tensors[place].name) and \(model.tensors[other].name)"
        case .drop:
            guard let place = pick({ _ in true }) else { return nil }
            let name = model.tensors[place].name
            // An order of columns that says nothing may go.
            guard !name.hasSuffix("g_idx") else { return nil }
            model.tensors.remove(at: place)
            return name
        case .duplicate:
            guard let place = pick({ floats.contains($0.type) && $0.shape.count == 2 }) else { return nil }
            model.tensors.append(("extra." + model.tensors[place].name, model.tensors[place].tensor))
            return model.tensors[place].name
        case .rename:
            guard let place = pick({ floats.contains($0.type) }) else { return nil }
            let name = model.tensors[place].name
            model.tensors[place].name = name.replacing("layers.1", with: "layers.7").replacing("lm_head", with: "head").replacing(
                "embed", with: "embd")
            return model.tensors[place].name == name ? nil : name
        case .type:
            // One F32 tensor as BF16, where bits are lost.
            func loses(_ tensor: CheckpointBuilder.Tensor) -> Bool {
                tensor.bytes.indices.contains { $0 % 4 < 2 && tensor.bytes[$0] != 0 }
            }
            guard let place = pick({ $0.type == .f32 && $0.shape.count == 1 && loses($0) }) else { return nil }
            let bytes = model.tensors[place].tensor.bytes
            model.tensors[place].tensor.type = .bf16
            var halves: [UInt8] = []
            for at in stride(from: 0, to: bytes.count, by: 4) { halves += bytes[at + 2..<at + 4] }
            model.tensors[place].tensor.bytes = halves
            return model.tensors[place].name
        case .order:
            // Values from the last to the first.
            guard let place = pick({ floats.contains($0.type) && $0.bytes.count > 64 }), isExact || !isScale(model.tensors[place].name) else {
                return nil
            }
            let tensor = model.tensors[place].tensor
            let width = tensor.type.bitWidth / 8
            var turned: [UInt8] = []
            for at in stride(from: tensor.bytes.count - width, through: 0, by: -width) { turned += tensor.bytes[at..<at + width] }
            model.tensors[place].tensor.bytes = turned
            return model.tensors[place].tensor.bytes == tensor.bytes ? nil : model.tensors[place].name
        case .bit:
            // The lowest bit of a value that must be equal: any, or one of a weight that was only copied.
            guard
                let place = pick({ tensor in
                    guard floats.contains(tensor.type) else { return false }
                    return isExact || tensor.shape.count == 1
                })
            else { return nil }
            let name = model.tensors[place].name
            // MLX quantizes its halves of kv_b_proj, embeddings and head anew: those are judged by a bound.
            guard !["embed_q", "unembed_out", "embed_tokens", "lm_head"].contains(where: name.contains) || !name.hasSuffix("s") else { return nil }
            guard isExact || reference.weights.contains(where: { $0.name == name && $0.stored[0].type == model.tensors[place].tensor.type }) else {
                return nil
            }
            let width = model.tensors[place].tensor.type.bitWidth / 8
            let at = Int(random.next() % UInt64(model.tensors[place].tensor.bytes.count / width)) * width
            // The bit above the lowest: below it a scale may round to the same values.
            model.tensors[place].tensor.bytes[at] ^= 8
            return name
        case .oneSign:
            guard let place = pick({ floats.contains($0.type) && !$0.bytes.isEmpty }), !isScale(model.tensors[place].name) else { return nil }
            let tensor = model.tensors[place].tensor
            let width = tensor.type.bitWidth / 8
            let at = Int(random.next() % UInt64(tensor.bytes.count / width)) * width
            guard tensor.bytes[at..<at + width].contains(where: { $0 & 0x7F != 0 }) else { return nil }
            model.tensors[place].tensor.bytes[at + width - 1] ^= 0x80
            return model.tensors[place].name
        case .oneScale:
            guard let place = pick({ (floats.contains($0.type) || $0.type == .f8E4M3) && $0.bytes.contains { $0 != 0 } }),
                isScale(model.tensors[place].name), !["embed_q", "unembed_out"].contains(where: model.tensors[place].name.contains)
            else { return nil }
            // MLX quantizes its halves of kv_b_proj anew, and holds one of them turned: their groups are none of the weight.
            let width = model.tensors[place].tensor.type.bitWidth / 8
            let at = Int(random.next() % UInt64(model.tensors[place].tensor.bytes.count / width)) * width
            model.tensors[place].tensor.bytes.replaceSubrange(at..<at + width, with: [UInt8](repeating: 0, count: width))
            return model.tensors[place].name
        case .oneRow:
            // Another row, of two groups at least: one alone may look alike by chance.
            guard let place = pick({ $0.shape.count == 2 && $0.shape[0] > 1 && $0.bytes.count / $0.shape[0] >= 32 }),
                !isScale(model.tensors[place].name)
            else { return nil }
            let tensor = model.tensors[place].tensor
            let width = tensor.bytes.count / tensor.shape[0]
            let from = Int(random.next() % UInt64(tensor.shape[0])), to = Int(random.next() % UInt64(tensor.shape[0]))
            let row = Array(tensor.bytes[from * width..<(from + 1) * width])
            guard row != Array(tensor.bytes[to * width..<(to + 1) * width]) else { return nil }
            model.tensors[place].tensor.bytes.replaceSubrange(to * width..<(to + 1) * width, with: row)
            return model.tensors[place].name
        case .truncation: return "a cut file"
        case .configuration:
            let changes: [(String, JSONValue)] = [
                ("rms_norm_eps", .number("1e-3")), ("num_experts_per_tok", .int(1)), ("rope_theta", .int(5000)), ("norm_topk_prob", .bool(false)),
                ("routed_scaling_factor", .number("2.5")), ("rope_interleave", .bool(false)), ("attention_bias", .bool(true)),
                ("tie_word_embeddings", .bool(true)), ("hidden_act", .string("gelu")), ("sliding_window", .int(64)),
            ]
            let change = changes[Int(random.next() % UInt64(changes.count))]
            model.config[change.0] = change.1
            return change.0
        }
    }

    /// The forward pass of a model whose numbers are none has no figures, and no bound on it holds.
    @Test(arguments: ["model.norm.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight", "model.layers.0.self_attn.o_proj.weight"])
    func logitsThatAreNoNumbersFailEveryBound(_ name: String) throws {
        let folder = try TemporaryDirectory()
        let model = Self.model()
        try model.write(to: folder.file("a"))
        var broken = model
        let count = try #require(model[name]).bytes.count
        broken[name]?.bytes = (0..<count / 2).flatMap { _ in CheckpointBuilder.bytes(UInt16(0x7FC0)) }
        try broken.write(to: folder.file("b"))
        let (a, b) = (try Checkpoint(opening: folder.file("a")), try Checkpoint(opening: folder.file("b")))
        let tokens = TokenBatch([[1, 2, 3, 4, 5, 6, 7]])
        let trial = try ForwardTrial(.checkpoint(a), b, tokens: tokens)
        #expect(trial.comparison.predictions.unjudgedPositions == 7 && trial.comparison.predictions.kld.mean.isNaN)
        for bounds in [
            ParityBounds(), ParityBounds(maximumKLD: 100), ParityBounds(minimumTop1: 0), ParityBounds(maximumPerplexityRatio: 1e9),
        ] {
            #expect(!ParityVerdict(weights: nil, forward: trial, bounds: bounds).passed)
        }
        let verdict = ParityVerdict(weights: nil, forward: trial, bounds: ParityBounds(maximumKLD: 100))
        #expect(verdict.failures.contains { $0.contains("mean KLD") })
        for form in ParityReport.allCases where form != .yaml {
            let text = try form.text(verdict, of: ParitySubject(reference: "a", candidate: "b", command: "c"))
            if form == .json { _ = try JSONValue(parsing: Array(text.dropLast().utf8)) }
        }
    }

    /// Padded columns of a vocabulary, masked by minus infinity, are tokens that cannot come.
    @Test func maskedColumnsAreNoDivergence() {
        let p: [Float] = [1, 2, -.infinity, 0], q: [Float] = [1, 2, -5, 0], r: [Float] = [1, -.infinity, 2, 0]
        let a = LogProbabilities(p, 4), b = LogProbabilities(q, 4), c = LogProbabilities(r, 4)
        #expect(a.divergence(to: a) == 0 && a.divergence(to: b) > 0 && a.divergence(to: b).isFinite && a.divergence(to: c) == .infinity)
        let odd: [Float] = [1, .nan, 0, 0], none = [Float](repeating: -.infinity, count: 4)
        #expect(a.divergence(to: LogProbabilities(odd, 4)).isNaN && LogProbabilities(none, 4).divergence(to: a).isNaN)
    }
}
