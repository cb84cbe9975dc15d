import Foundation
import Recast
import TestSupport
import Testing

/// What is known of each architecture, held against itself and against transformers (Tests/Scripts/golden_architectures.py).
@Suite struct ArchitectureTests {
    static let models = ["qwen3-moe", "qwen3", "llama", "glm4-moe", "glm4-moe-lite", "minimax-m2", "hy3", "kimi-k25", "deepseek-v32", "glm5"]

    /// The model, its tokens and golden logits.
    private struct Golden {
        let folder: TemporaryDirectory
        let tokens: TokenBatch
        let logits: PositionedFile

        var path: String { folder.file("model") }

        init(_ name: String) throws {
            folder = try TemporaryDirectory()
            let json = try JSONValue(parsing: Fixtures.bytes("architectures/\(name).json"))
            var builder = CheckpointBuilder()
            builder.config = try #require(json["config"]?.object)
            for (tensor, value) in try #require(json["tensors"]?.object).members {
                let type = try #require(value.array?[0].string.flatMap { ScalarType(rawValue: $0) })
                let sizes = try #require(value.array?[1].array)
                let shape = sizes.compactMap(\.int)
                builder.add(tensor, type, shape, Self.weights(tensor, shape, type))
            }
            try builder.write(to: folder.file("model"))
            tokens = TokenBatch(try #require(json["sequences"]?.array).map { $0.array?.compactMap(\.int) ?? [] })
            logits = try PositionedFile.openForReading(Fixtures.path("architectures/\(name).safetensors"))
        }

        /// The numbers that `weights` in golden_architectures.py makes.
        private static func weights(_ name: String, _ shape: [Int], _ type: ScalarType) -> [UInt8] {
            let seed = name.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
            let isNorm = name.contains("norm")
            return (1...shape.reduce(1, *)).flatMap { index -> [UInt8] in
                var z = UInt64(index) &* 0x9E37_79B9_7F4A_7C15 &+ seed
                z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
                z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
                z ^= z >> 31
                let value = Float(Int(z >> 40) - 1 << 23) * 0x1p-23
                let weight = shape.count > 1 ? value * 0.125 : value * 0.25 + (isNorm ? 1 : 0)
                return type == .f32 ? CheckpointBuilder.bytes(weight.bitPattern) : CheckpointBuilder.bytes(BFloat16(rounding: weight).bits)
            }
        }
    }

    /// Every module has one name, and every name says which module it is.
    @Test(arguments: Architecture.known) func namesAndPlacesAreInverses(_ architecture: Architecture) throws {
        var count = 0
        for role in ModuleRole.allCases {
            for (layer, expert) in [(0, 0), (7, 12), (61, 255)] {
                guard let name = architecture.module(role, layer: layer, expert: expert) else { continue }
                let place = try #require(architecture.place(of: name))
                #expect(place.role == role, "\(name)")
                #expect(architecture.module(place.role, layer: place.layer, expert: place.expert) == name)
                count += 1
            }
        }
        #expect(count >= 3 * 10)
        #expect(architecture.place(of: "model.layers.07.input_layernorm") == nil && architecture.place(of: "model.layers.0") == nil)
    }

    @Test(arguments: models + ["gpt-oss"]) func logitsAreTransformers(_ model: String) throws {
        let golden = try Golden(model)
        let tokens = golden.tokens
        let pass = try ForwardPass(Checkpoint(opening: golden.path), tokens: tokens)
        while !pass.isDone { try pass.step() }
        let logits = try pass.logits(0..<tokens.count)
        var worst: Float = 0
        for (number, range) in tokens.ranges.enumerated() {
            let tensor = try #require(try SafetensorsHeader(reading: golden.logits).tensors.first { $0.name == "logits.\(number)" })
            #expect(tensor.shape == [range.count, logits.columns])
            let bytes = try golden.logits.read(tensor.byteCount, at: tensor.offset)
            let expected = bytes.withUnsafeBytes { raw in
                (0..<bytes.count / 4).map { raw.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
            }
            for (row, token) in range.enumerated() {
                for column in 0..<logits.columns {
                    let difference = abs(logits[token][column] - expected[row * logits.columns + column])
                    worst = difference <= worst ? worst : difference
                }
            }
        }
        #expect(worst <= 5e-4, "largest difference \(worst)")
    }

    /// Where the indexer may keep every token, attention is dense; where it may not, the forward pass says so.
    @Test(arguments: ["deepseek-v32", "glm5"]) func sequencesBeyondTheIndexerAreRefused(_ model: String) throws {
        let golden = try Golden(model)
        let checkpoint = try Checkpoint(opening: golden.path)
        _ = try ForwardPass(checkpoint, tokens: TokenBatch([Array(repeating: 1, count: 64)]))
        #expect(throws: ReferenceFailure.sparse(tokens: 65, kept: 64)) {
            try ForwardPass(checkpoint, tokens: TokenBatch([[1], Array(repeating: 1, count: 65)]))
        }
    }

    /// Linear weights are quantized, everything else stays, and what was written is the same model.
    @Test(arguments: models, ["fp8-block", "int4-g32", "mxfp4", "awq", "nvfp4"]) func linearWeightsAreQuantized(_ model: String, _ target: String)
        throws
    {
        let folder = try TemporaryDirectory()
        let golden = try Golden(model)
        try convert(golden.path, folder.file("out"), to: target)
        let (source, output) = (try Checkpoint(opening: golden.path), try Checkpoint(opening: folder.file("out")))
        let architecture = try #require(source.roles.architecture)
        var quantized = 0
        for weight in output.weights where WeightName.leaf(weight.name) == "weight" {
            if architecture.carries(weight.name) {
                #expect(weight.layout?.isPlainBF16 == true, "\(weight.name)")
                continue
            }
            let place = try #require(architecture.place(of: weight.module), "\(weight.name)")
            #expect((weight.layout?.isDense == false) == place.role.isLinear, "\(weight.name)")
            quantized += place.role.isLinear ? 1 : 0
        }
        #expect(quantized > 10 && Set(output.weights.map(\.name)) == Set(source.weights.map(\.name)))
        let audit = try WeightAudit(reference: source, candidate: output)
        let verdict = ParityVerdict(weights: audit, bounds: ParityBounds(), claims: ParityClaims(from: source, to: output))
        #expect(verdict.passed, "\(verdict.failures)")
    }

    /// A model under another model_type converts by inferred roles: the same weights are quantized, and the plan says how it knows.
    @Test(arguments: models) func rolesAreInferredWhereTheArchitectureIsNotKnown(_ model: String) throws {
        let folder = try TemporaryDirectory()
        let golden = try Golden(model)
        var builder = try CheckpointBuilder(reading: golden.path)
        builder.config["model_type"] = .string("something_new")
        try builder.write(to: folder.file("unknown"))
        let checkpoint = try Checkpoint(opening: folder.file("unknown"))
        #expect(checkpoint.roles.architecture == nil)
        let known = try Checkpoint(opening: golden.path)
        let choice = try LayoutChoice(target: "int4-g32")
        let plan = try ConversionPlan(converting: checkpoint, choice: choice), other = try ConversionPlan(converting: known, choice: choice)
        func roads(_ plan: ConversionPlan) -> [Int: Road] { Dictionary(uniqueKeysWithValues: plan.weights.map { ($0.source, $0.road) }) }
        #expect(roads(plan) == roads(other))
        #expect(plan.notes.contains { "\($0)".contains("inferred") } && !other.notes.contains { "\($0)".contains("inferred") })
        #expect(PlanPreview(plan, checkpoint).text.contains("taken for: embedding"))
        #expect(throws: (any Error).self) { try ModelConfiguration(config: checkpoint.config) }
    }
}
