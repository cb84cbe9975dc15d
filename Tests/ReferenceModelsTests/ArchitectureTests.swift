import Foundation
import Recast
import TestSupport
import Testing

/// What is known of each architecture, held against itself and against transformers (Tests/Scripts/golden_architectures.py).
@Suite struct ArchitectureTests {
    static let models = ["qwen3-moe"]

    private static func path(_ model: String) -> String { Fixtures.path("architectures/" + model) }

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
        #expect(count >= 3 * 15)
        #expect(architecture.place(of: "model.layers.07.input_layernorm") == nil && architecture.place(of: "model.layers.0") == nil)
    }

    @Test(arguments: models) func logitsAreTransformers(_ model: String) throws {
        let golden = try PositionedFile.openForReading(Self.path(model) + ".golden.safetensors")
        let tokens = try TokenBatch(reading: Self.path(model) + ".tokens.json")
        let pass = try ForwardPass(Checkpoint(opening: Self.path(model)), tokens: tokens)
        while !pass.isDone { try pass.step() }
        let logits = try pass.logits(0..<tokens.count)
        var worst: Float = 0
        for (number, range) in tokens.ranges.enumerated() {
            let tensor = try #require(try SafetensorsHeader(reading: golden).tensors.first { $0.name == "logits.\(number)" })
            #expect(tensor.shape == [range.count, logits.columns])
            let bytes = try golden.read(tensor.byteCount, at: tensor.offset)
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

    /// Linear weights are quantized, everything else stays, and what was written is the same model.
    @Test(arguments: models, ["fp8-block", "int4-g32", "mxfp4", "awq", "nvfp4"]) func linearWeightsAreQuantized(_ model: String, _ target: String)
        throws
    {
        let folder = try TemporaryDirectory()
        try convert(Self.path(model), folder.file("out"), to: target)
        let (source, output) = (try Checkpoint(opening: Self.path(model)), try Checkpoint(opening: folder.file("out")))
        let architecture = try #require(source.roles.architecture)
        var quantized = 0
        for weight in output.weights {
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
        var builder = try CheckpointBuilder(reading: Self.path(model))
        builder.config["model_type"] = .string("something_new")
        try builder.write(to: folder.file("unknown"))
        let checkpoint = try Checkpoint(opening: folder.file("unknown"))
        #expect(checkpoint.roles.architecture == nil)
        let known = try Checkpoint(opening: Self.path(model))
        let choice = try LayoutChoice(target: "int4-g32")
        let plan = try ConversionPlan(converting: checkpoint, choice: choice), other = try ConversionPlan(converting: known, choice: choice)
        func roads(_ plan: ConversionPlan) -> [String: Road] { Dictionary(uniqueKeysWithValues: plan.weights.map { ($0.module, $0.road) }) }
        #expect(roads(plan) == roads(other))
        #expect(plan.notes.contains { "\($0)".contains("inferred") } && !other.notes.contains { "\($0)".contains("inferred") })
        #expect(PlanPreview(plan, checkpoint).text.contains("taken for: router gate"))
        #expect(throws: (any Error).self) { try ModelConfiguration(config: checkpoint.config) }
    }
}
