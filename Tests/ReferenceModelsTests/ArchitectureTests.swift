import Foundation
import Recast
import TestSupport
import Testing

/// What is known of each architecture, held against itself and against transformers (Tests/Scripts/golden_architectures.py).
@Suite struct ArchitectureTests {
    static let models = [
        "qwen3-moe", "qwen3", "llama", "glm4-moe", "glm4-moe-lite", "minimax-m2", "hy3", "kimi-k25", "deepseek-v32", "glm5", "mistral4", "qwen2",
    ]

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
        static func weights(_ name: String, _ shape: [Int], _ type: ScalarType) -> [UInt8] {
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

    /// transformers takes 1e-6 in the inner norms of a latent whatever `rms_norm_eps` is, vLLM takes that.
    @Test(arguments: [1e-5, 1e-6]) func innerNormsAreAMatterOfChoice(_ epsilon: Double) throws {
        let golden = try Golden("kimi-k25")
        var builder = try CheckpointBuilder(reading: golden.path)
        var text = try #require(builder.config["text_config"]?.object)
        text["rms_norm_eps"] = .double(epsilon)
        builder.config["text_config"] = .object(text)
        let folder = try TemporaryDirectory()
        try builder.write(to: folder.file("m"))
        let checkpoint = try Checkpoint(opening: folder.file("m"))
        let both = try LatentNorms.allCases.map { norms in
            let pass = try ForwardPass(checkpoint, tokens: golden.tokens, latentNorms: norms)
            while !pass.isDone { try pass.step() }
            let logits = try pass.logits(0..<golden.tokens.count)
            return (0..<logits.columns).map { logits[0][$0] }
        }
        #expect((both[0] == both[1]) == (epsilon == 1e-6))
        let configuration = try ModelConfiguration(config: checkpoint.config)
        for norms in LatentNorms.allCases { #expect((norms.sentence(of: configuration) == nil) == (epsilon == 1e-6)) }
    }

    /// A model with an indexer, its config.json and one tensor edited.
    private func edited(_ model: String, _ fields: JSONObject, damage name: String? = nil, at path: String) throws -> Checkpoint {
        let json = try JSONValue(parsing: Fixtures.bytes("architectures/\(model).json"))
        var builder = CheckpointBuilder()
        builder.config = try #require(json["config"]?.object)
        for (field, value) in fields.members { builder.config[field] = value }
        for (tensor, value) in try #require(json["tensors"]?.object).members {
            let type = try #require(value.array?[0].string.flatMap { ScalarType(rawValue: $0) })
            let shape = try #require(value.array?[1].array).compactMap(\.int)
            var bytes = Golden.weights(tensor, shape, type)
            if tensor == name { bytes.replaceSubrange(0..<2, with: [0xC0, 0x7F]) }
            builder.add(tensor, type, shape, bytes)
        }
        try builder.write(to: path)
        return try Checkpoint(opening: path)
    }

    /// An indexer that cannot compare leaves attention without a choice: nothing is guessed, not even where every other figure is finite.
    @Test(arguments: ["k_norm.weight", "k_norm.bias", "wk.weight", "wq_b.weight", "weights_proj.weight"])
    func anIndexerThatGivesNoNumbersIsRefused(_ part: String) throws {
        let folder = try TemporaryDirectory()
        let checkpoint = try edited("glm5", [:], damage: "model.layers.0.self_attn.indexer." + part, at: folder.file("model"))
        let pass = try ForwardPass(checkpoint, tokens: TokenBatch([[7], (0..<30).map { ($0 * 37) % 160 }]))
        #expect(throws: ReferenceFailure.indexer(layer: 0)) { try pass.step() }
        // Where it may keep every token nobody asks it.
        let short = try ForwardPass(checkpoint, tokens: TokenBatch([(0..<12).map { $0 }]))
        _ = try short.step()
        #expect(short.hidden.notFiniteRows == 0)
    }

    /// The choice depends on neither workers nor memory, and counts tokens by their sequence: beside others and alone a sequence has the same figures.
    @Test(arguments: ["deepseek-v32", "glm5"]) func theChoiceOfTokensIsASequencesOwn(_ model: String) throws {
        let golden = try Golden(model)
        let checkpoint = try Checkpoint(opening: golden.path)
        func hidden(_ tokens: TokenBatch, jobs: Int, memory: Int) throws -> [Float] {
            var options = RunOptions()
            (options.jobs, options.memory) = (jobs, memory)
            let pass = try ForwardPass(checkpoint, tokens: tokens, options: options)
            while !pass.isDone { try pass.step() }
            return pass.hidden.values
        }
        let together = try hidden(golden.tokens, jobs: 1, memory: 1 << 30)
        #expect(try hidden(golden.tokens, jobs: 5, memory: 1 << 30) == together)
        #expect(try hidden(golden.tokens, jobs: 2, memory: 3 << 20) == together)
        for range in golden.tokens.ranges {
            let alone = try hidden(TokenBatch([Array(golden.tokens.all[range])]), jobs: 3, memory: 1 << 30)
            #expect(alone == Array(together[range.lowerBound * 128..<range.upperBound * 128]))
        }
    }

    /// Which layers share another's choice is said in three ways, and none of them may be half said.
    @Test func sharingLayersAreReadAsTransformersDoes() throws {
        let folder = try TemporaryDirectory()
        func sharing(_ fields: JSONObject) throws -> [Int]? {
            var all: JSONObject = ["indexer_types": .null]
            for (field, value) in fields.members { all[field] = value }
            let path = folder.file("model")
            try? FileManager.default.removeItem(atPath: path)
            return try ModelConfiguration(config: edited("glm5", all, at: path).config).indexer?.sharingLayers
        }
        #expect(try sharing([:]) == [])
        #expect(try sharing(["index_topk_pattern": "FSF"]) == [1])
        #expect(try sharing(["index_topk_pattern": ["full", "shared", "shared"]]) == [1, 2])
        #expect(try sharing(["index_topk_freq": 4]) == [2])
        #expect(try sharing(["index_topk_freq": 4, "index_skip_topk_offset": 1]) == [1, 2])
        for wrong: JSONObject in [
            ["indexer_types": ["shared", "full", "full"]], ["indexer_types": ["full", "full"]], ["indexer_types": ["full", "half", "full"]],
            ["indexer_types": 3], ["index_topk_pattern": "FSX"], ["index_topk_freq": 4, "index_skip_topk_offset": 0], ["index_topk": .null],
            ["index_head_dim": 8], ["q_lora_rank": .null], ["indexer_rope_interleave": false],
        ] {
            #expect(throws: ArchitectureFailure.self, "\(wrong)") { try sharing(wrong) }
        }
    }

    /// Places that PyTorch 2.13's topk keeps, among them many of equal scores (Tests/Scripts/golden_topk.py).
    @Test func theLargestAreThoseOfPyTorch() throws {
        let cases = try #require(try JSONValue(parsing: Fixtures.bytes("golden/topk.json")).array)
        #expect(cases.count > 100)
        for (number, entry) in cases.enumerated() {
            let scores = try #require(entry["scores"]?.array).compactMap { $0.double.map { Float($0) } }
            let places = try #require(entry["places"]?.array).compactMap(\.int)
            var largest = LargestScores(scores)
            #expect(largest.places(places.count).sorted() == places, "case \(number): \(places.count) of \(scores.count)")
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
            // Readers take an indexer's keys as BF16 or FP8.
            let isQuantized = place.role.isLinear && (place.role != .indexerKey || target == "fp8-block")
            #expect((weight.layout?.isDense == false) == isQuantized, "\(weight.name)")
            quantized += isQuantized ? 1 : 0
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
