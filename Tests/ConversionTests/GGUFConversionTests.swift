import Foundation
import Recast
import TestSupport
import Testing

/// The small trained model as GGUF, against what llama.cpp's converter and quantizer made of it (`Tests/Fixtures/golden/gguf.json`).
@Suite struct GGUFConversionTests {
    private static let golden = Result { try JSONValue(parsing: Fixtures.bytes("golden/gguf.json")) }

    private func golden() throws -> JSONValue { try Self.golden.get() }

    @discardableResult private func write(_ source: String, _ path: String, _ layout: String) async throws -> RunReport {
        var request = ConversionRequest(source, to: path, layout: layout)
        request.options.jobs = 2
        return try await Conversion.plan(request).run().value()
    }

    @Test(arguments: [
        "BF16", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
    ])
    func everyTensorIsLlamaQuantizes(_ type: String) async throws {
        let folder = try TemporaryDirectory()
        let path = folder.file("out.gguf")
        let plain = ["BF16": "bf16", "F16": "f16"]
        let report = try await write(Fixtures.fp8Model, path, plain[type] ?? type)
        #expect(report.audit.differences == 0)
        let expected = try #require(try golden()["types"]?[type]?.object)
        let opened = try ContainerRegistry.open(path)
        let file = try #require(opened)
        #expect(file.tensors.count == expected.members.count && expected.members.count == 70)
        for tensor in file.tensors {
            let peer = try #require(expected[tensor.name]?.array, "\(tensor.name)")
            let bytes = try file.bytes.read(tensor.byteCount, at: tensor.offset)
            #expect(tensor.type.rawValue == peer[0].string, "\(tensor.name)")
            #expect(tensor.shape.reversed().map(JSONValue.int) == peer[1].array, "\(tensor.name)")
            #expect(Digest.of(bytes) == peer[2].string, "\(tensor.name)")
        }
    }

    /// As people type it; llama-quantize takes it so, too.
    @Test func aTypeMayBeWrittenInOtherCases() throws {
        let folder = try TemporaryDirectory()
        func plan(_ layout: String, _ name: String = "out.gguf") throws -> Conversion {
            try Conversion.plan(ConversionRequest(Fixtures.fp8Model, to: folder.file(name), layout: layout))
        }
        #expect(try plan("q4_k_m").fingerprint == plan("Q4_K_M").fingerprint && plan("BF16").fingerprint == plan("bf16").fingerprint)
        #expect(try plan("q4_k_m", "directory").fingerprint == plan("Q4_K_M", "directory").fingerprint)
    }

    /// Kimi-K2's form, experts in int4 and the rest in BF16: its codes are Q4_0's, every value stays.
    @Test func integersOfReleasesStayWhatTheyAre() async throws {
        let folder = try TemporaryDirectory()
        let experts = try Recipe(yaml: "rules: [{match: '*.mlp.experts.*', to: int4-g32}]", path: "r")
        try convert(Fixtures.bf16Model, folder.file("int4"), to: "bf16", recipe: experts)
        try FileTree.write(Array("rules: [{match: '*.mlp.experts.*', to: Q4_0}]".utf8), to: folder.file("r.yaml"))
        var request = ConversionRequest(folder.file("int4"), to: folder.file("out.gguf"), layout: "bf16")
        request.recipe = folder.file("r.yaml")
        let report = try await Conversion.plan(request).run().value()
        #expect(report.audit.roads[.quantize] == nil && (report.audit.roads[.repack] ?? 0) >= 3 * 3 * 12)
        let (reference, written) = (try Checkpoint(opening: folder.file("int4")), try Checkpoint(opening: folder.file("out.gguf")))
        #expect(written.weights.count { $0.layoutName == "Q4_0" } == 3 * 3 * 12)
        let audit = try WeightAudit(reference: reference, candidate: written)
        #expect(audit.weights.count >= 160 && audit.weights.allSatisfy(\.isIdentical))
    }

    /// `verify --for llama.cpp` of a file: what is written passes, and each thing that its loader stumbles over is named.
    @Test func theLoadersContractIsHeld() async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.fp8Model, folder.file("out.gguf"), "Q4_K_M")
        let checkpoint = try Checkpoint(opening: folder.file("out.gguf"))
        #expect(ConsumerContract(.llamaCpp, checkpoint).report().checks.allSatisfy { $0.failure == nil })
        #expect(ConsumerContract(.vllm, checkpoint).report().checks.contains { $0.failure != nil })
        let shape = try #require(checkpoint.weights.first { $0.name == "model.embed_tokens.weight" }).dimensions
        func edited(_ key: String, _ value: GGUFValue?) -> LlamaCppRequirements {
            LlamaCppRequirements(checkpoint.entries.filter { $0.key != key } + (value.map { [GGUFEntry(key, $0)] } ?? []))
        }
        let whole = LlamaCppRequirements(checkpoint.entries)
        #expect(whole.missingKeys() == nil && whole.badSize(embedding: shape) == nil && whole.badTokenizer(rows: shape[0]) == nil)
        for key in ["block_count", "context_length", "attention.kv_lora_rank", "attention.q_lora_rank", "expert_used_count", "expert_shared_count"] {
            #expect(edited("deepseek2." + key, nil).missingKeys()?.contains(key) == true, "\(key)")
        }
        #expect(edited("general.architecture", .string("made-up")).missingKeys() != nil)
        for (key, value) in [
            ("block_count", 513), ("block_count", 0), ("expert_count", 2000), ("expert_used_count", 0), ("expert_used_count", 13),
            ("expert_group_used_count", 9), ("attention.head_count_kv", 0), ("embedding_length", 255),
        ] { #expect(edited("deepseek2." + key, .u32(UInt32(value))).badSize(embedding: shape) != nil, "\(key) \(value)") }
        // Numbers that are none, and those whose sums are none.
        for (key, value) in [
            ("block_count", GGUFValue.string("61")), ("block_count", .u64(1 << 62)), ("nextn_predict_layers", .i64(.min)),
            ("expert_count", .f32(12)), ("attention.layer_norm_rms_epsilon", .f32(.nan)), ("attention.layer_norm_rms_epsilon", .string("1e-6")),
        ] {
            let requirements = edited("deepseek2." + key, value)
            #expect(requirements.missingKeys() == nil && requirements.badSize(embedding: shape) != nil, "\(key) \(value)")
        }
        #expect(whole.badSize(embedding: nil) != nil && whole.badTokenizer(rows: shape[0] + 1) != nil)
        for key in ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
            #expect(edited(key, nil).badTokenizer(rows: shape[0])?.contains(key) == true)
        }
        #expect(edited("tokenizer.ggml.eos_token_id", .u32(1 << 20)).badTokenizer(rows: shape[0]) != nil)
        // A norm that is not F32, and a layer without a tensor.
        var damaged = checkpoint
        let norm = try #require(damaged.weights.firstIndex { $0.name.hasSuffix("layers.1.input_layernorm.weight") })
        damaged.weights[norm].layout = .dense(.bf16)
        #expect(ConsumerContract(.llamaCpp, damaged).report().checks.count { $0.failure != nil } == 1)
        damaged.weights.remove(at: norm)
        #expect(ConsumerContract(.llamaCpp, damaged).report().checks.count { $0.failure != nil } == 1)
    }

    /// A plan that nobody gave the factors of Llama 3's rotation is none, and a weight that the model has not is not dropped.
    @Test func aFileDescribesTheWholeModel() throws {
        let folder = try TemporaryDirectory()
        let json = try JSONValue(parsing: Fixtures.bytes("architectures/llama.json"))
        var builder = CheckpointBuilder()
        builder.config = try #require(json["config"]?.object)
        for (tensor, value) in try #require(json["tensors"]?.object).members {
            let shape = try #require(value.array?[1].array).compactMap(\.int)
            builder.add(tensor, .bf16, shape, [UInt8](repeating: 0x3C, count: 2 * shape.reduce(1, *)))
        }
        try builder.write(to: folder.file("m"))
        func plan(_ path: String, adds: Bool) throws {
            let checkpoint = try Checkpoint(opening: path)
            let choice = try LayoutChoice(target: "bf16", container: GGUF.self)
            let made = adds ? try choice.dialect.madeTensors(of: checkpoint.config, roles: checkpoint.roles) : []
            _ = try ConversionPlan(
                converting: checkpoint.adding(made), choice: choice, output: OutputOptions(container: GGUF.self, isSingleFile: true))
        }
        try plan(folder.file("m"), adds: true)
        #expect(throws: CheckpointFailure.self) { try plan(folder.file("m"), adds: false) }
        builder.add("model.layers.0.mlp.up_proj.bias", .bf16, [128], [UInt8](repeating: 0x3C, count: 256))
        try builder.write(to: folder.file("biased"))
        #expect(throws: CheckpointFailure.self) { try plan(folder.file("biased"), adds: true) }
        builder = try CheckpointBuilder(reading: folder.file("m"))
        builder["model.norm.weight"] = nil
        try builder.write(to: folder.file("less"))
        #expect(throws: CheckpointFailure.self) { try plan(folder.file("less"), adds: true) }
    }

    /// Every key but the tokenizer's, in value, type and order.
    @Test func keysAreTheConverters() async throws {
        let folder = try TemporaryDirectory()
        // Its name is the directory's.
        try FileManager.default.createSymbolicLink(atPath: folder.file("tiny-deepseek-v3-fp8"), withDestinationPath: Fixtures.fp8Model)
        try await write(folder.file("tiny-deepseek-v3-fp8"), folder.file("out.gguf"), "bf16")
        let file = try #require(try ContainerRegistry.open(folder.file("out.gguf")))
        let entries = file.entries.filter { !$0.key.hasPrefix("tokenizer.") }
        let expected = try #require(try golden()["metadata"]?.array)
        #expect(entries.map(\.key) == expected.compactMap { $0.array?[0].string })
        for (entry, peer) in zip(entries, expected) {
            let (type, value) = (peer.array?[1].array?[0].string, peer.array?[2])
            switch entry.value {
            case .string(let text): #expect(type == "STRING" && value?.string == text, "\(entry.key)")
            case .u32(let number): #expect(type == "UINT32" && value?.int == Int(number), "\(entry.key)")
            case .f32(let number): #expect(type == "FLOAT32" && value?.double.map { Float($0) } == number, "\(entry.key)")
            case .bool(let flag): #expect(type == "BOOL" && value?.bool == flag, "\(entry.key)")
            default: Issue.record("\(entry.key) is \(entry.value)")
            }
        }
    }

    @Test func fileToSafetensorsAndBackIsTheSameFile() async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.fp8Model, folder.file("one.gguf"), "bf16")
        try await write(folder.file("one.gguf"), folder.file("back"), "bf16")
        try await write(folder.file("back"), folder.file("two.gguf"), "bf16")
        #expect(
            try Data(contentsOf: URL(fileURLWithPath: folder.file("one.gguf")))
                == (try Data(contentsOf: URL(fileURLWithPath: folder.file("two.gguf")))))
        let mine = try ModelConfiguration(config: Checkpoint(opening: folder.file("back")).config)
        let theirs = try ModelConfiguration(config: Checkpoint(opening: Fixtures.fp8Model).config)
        #expect(mine.differences(from: theirs).isEmpty)
    }

    /// The values of a file are those of its blocks, whatever their type, and its forward pass is that of the model.
    /// Values wider than BF16 reach a type that holds them: blocks whose quantizer finds its own codes again are the same blocks.
    @Test(arguments: ["f32", "f16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4_MOE"]) func wideValuesComeBack(_ type: String) async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.fp8Model, folder.file("one.gguf"), type)
        let report = try await write(folder.file("one.gguf"), folder.file("back"), "f32")
        #expect(report.audit.differences == 0)
        try await write(folder.file("back"), folder.file("again.gguf"), type)
        let opened = [try ContainerRegistry.open(folder.file("one.gguf")), try ContainerRegistry.open(folder.file("again.gguf"))]
        let (one, again) = (try #require(opened[0]), try #require(opened[1]))
        #expect(one.tensors == again.tensors && one.tensors.count == 70)
        for tensor in one.tensors where tensor.type != .q6K {
            let same = try one.bytes.read(tensor.byteCount, at: tensor.offset) == again.bytes.read(tensor.byteCount, at: tensor.offset)
            #expect(same, "\(tensor.name)")
        }
        // The F32 copy holds what the blocks mean, to the last bit.
        let audit = try WeightAudit(
            reference: try Checkpoint(opening: folder.file("one.gguf")), candidate: try Checkpoint(opening: folder.file("back")))
        #expect(audit.weights.count >= 160 && audit.weights.allSatisfy(\.isIdentical))
    }

    /// Blocks that integers in groups hold are repacked exactly, and norms that only look wider than BF16 do not stand in the way.
    @Test func exactConversionsKnowWhatIsExact() async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.bf16Model, folder.file("coded"), "int4-g32")
        try await write(folder.file("coded"), folder.file("out.gguf"), "Q4_0")
        var recipe = ConversionRequest(folder.file("out.gguf"), to: folder.file("exact"), layout: "bf16")
        recipe.requiresExact = true
        // Blocks of Q4_0 have F32 values.
        #expect(throws: ConversionFailure.self) { _ = try Conversion.plan(recipe) }
        recipe = ConversionRequest(folder.file("out.gguf"), to: folder.file("wide"), layout: "f32")
        recipe.requiresExact = true
        #expect(try await Conversion.plan(recipe).run().value().audit.differences == 0)
        try await write(folder.file("coded"), folder.file("plain.gguf"), "bf16")
        recipe = ConversionRequest(folder.file("plain.gguf"), to: folder.file("norms"), layout: "bf16")
        recipe.requiresExact = true
        #expect(try await Conversion.plan(recipe).run().value().audit.roads[.cast] ?? 0 > 0)
    }

    /// A copy of blocks in F32 that was rounded to BF16 on the way is not what they mean, and F16 of FP8 rounds.
    @Test func roundedCopiesOfBlocksAreTold() async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.fp8Model, folder.file("one.gguf"), "Q8_0")
        try await write(folder.file("one.gguf"), folder.file("narrow"), "bf16")
        try await write(folder.file("narrow"), folder.file("saved"), "f32")
        let audit = try WeightAudit(
            reference: try Checkpoint(opening: folder.file("one.gguf")), candidate: try Checkpoint(opening: folder.file("saved")))
        #expect(audit.weights.contains { !$0.isIdentical })
        var request = ConversionRequest(Fixtures.fp8Model, to: folder.file("half"), layout: "f16")
        request.requiresExact = true
        #expect(throws: ConversionFailure.self) { _ = try Conversion.plan(request) }
    }

    /// FP8 in F32 is code x scale, which BF16 would round.
    @Test func productsAreNotRoundedForWideTargets() async throws {
        let folder = try TemporaryDirectory()
        for type in ["f32", "bf16"] { try await write(Fixtures.fp8Model, folder.file(type), type) }
        let source = try Checkpoint(opening: Fixtures.fp8Model), wide = try Checkpoint(opening: folder.file("f32"))
        let name = "model.layers.1.mlp.experts.3.down_proj.weight"
        let weight = try #require(wide.weights.first { $0.name == name })
        let stored = try #require(source.weights.first { $0.name == name })
        let codes = try source.files[stored.stored[0].file].read(stored.stored[0].byteCount, at: stored.stored[0].offset)
        let scales = try source.files[stored.stored[1].file].read(stored.stored[1].byteCount, at: stored.stored[1].offset)
        let values = try wide.files[weight.stored[0].file].read(weight.stored[0].byteCount, at: weight.stored[0].offset)
        let shape = weight.shape
        #expect(weight.layoutName == "f32" && values.count == shape.count * 4)
        var rounded = 0
        for (index, code) in codes.enumerated() {
            let block = index / shape.columns / 128 * ((shape.columns + 127) / 128) + index % shape.columns / 128
            let scale = scales.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: block * 4, as: Float.self) }
            let value = values.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: index * 4, as: Float.self) }
            guard value == Float8E4M3(bits: code).value * scale else {
                Issue.record("value \(index): \(value)")
                break
            }
            rounded += value.bitPattern & 0xFFFF == 0 ? 0 : 1
        }
        #expect(rounded > shape.count / 2)
        for copy in ["f32", "bf16"] {
            let audit = try WeightAudit(reference: source, candidate: try Checkpoint(opening: folder.file(copy)))
            #expect(audit.weights.allSatisfy { $0.isIdentical }, "\(copy)")
        }
        // A BF16 copy saved in F32 by somebody else is a faithful one too.
        try await write(folder.file("bf16"), folder.file("saved"), "f32")
        let audit = try WeightAudit(reference: source, candidate: try Checkpoint(opening: folder.file("saved")))
        #expect(audit.weights.allSatisfy { $0.isIdentical })
    }

    @Test(arguments: ["Q8_0", "Q4_K_M"]) func filesAreVerifiedAndRun(_ type: String) async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.fp8Model, folder.file("out.gguf"), type)
        var request = VerificationRequest(folder.file("out.gguf"), against: Fixtures.fp8Model)
        request.tokens = .file(Fixtures.path("tokens-short.json"))
        request.bounds.allowsMissingMTP = true
        request.bounds.maximumKLD = type == "Q8_0" ? 1e-3 : 0.05
        let report = try await Verification.run(request).value()
        #expect(report.passed, "\(report.failures)")
    }

    @Test func whatLlamaCppDoesNotReadIsRefused() async throws {
        let folder = try TemporaryDirectory()
        for (layout, path, word) in [
            ("int4-g32", "out.gguf", "reads no weights as int4-g32"), ("Q4_K_M", "out.h5", "gguf"), ("keep", "out.gguf", "keep"),
        ] {
            await #expect {
                try await write(Fixtures.fp8Model, folder.file(path), layout)
            } throws: {
                ($0 as? any Failure)?.kind == .usage && "\($0)".contains(word)
            }
        }
    }

    /// Codes and scales that a block can hold are carried over: the same values, nothing chosen anew.
    @Test(arguments: [("int4-g32", "Q4_0"), ("int8-g32", "Q8_0"), ("mxfp4", "MXFP4_MOE")])
    func whatBlocksCanHoldIsRepacked(_ layout: String, _ type: String) async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.bf16Model, folder.file("coded"), layout)
        let report = try await write(folder.file("coded"), folder.file("out.gguf"), type)
        #expect(report.audit.roads[.repack] ?? 0 >= 108, "\(report.audit.roads)")
        let (source, file) = (try Checkpoint(opening: folder.file("coded")), try Checkpoint(opening: folder.file("out.gguf")))
        var compared = 0
        for weight in file.weights where weight.name.contains(".experts.") && !weight.name.contains("shared") {
            let other = try #require(source.weights.first { $0.name == weight.name })
            let rows = 0..<weight.shape.rows
            // ggml's table of E2M1 has one zero.
            let (mine, theirs) = (try file.values(of: weight, rows: rows), try source.values(of: other, rows: rows))
            let isEqual = mine.map { $0 == 0x8000 ? 0 : $0 } == theirs.map { $0 == 0x8000 ? 0 : $0 }
            #expect(isEqual, "\(weight.name)")
            compared += 1
        }
        #expect(compared == 108)
    }

    /// An importance matrix of either form weighs columns, and what `recast calibrate` writes is read back.
    @Test func importanceMatricesAreTaken() async throws {
        let folder = try TemporaryDirectory()
        let output = folder.file("importance.gguf")
        let collected = try await StatisticsCollection.run(
            StatisticsRequest(Fixtures.fp8Model, tokens: .file(Fixtures.path("tokens-short.json")), output: output)
        ).value()
        #expect(collected.weights > 100)
        let matrix = try ImportanceMatrix(reading: output)
        #expect(matrix.importance(of: "blk.1.ffn_down_exps.weight", matrix: 11, columns: 256) != nil)
        #expect(matrix.importance(of: "blk.1.ffn_down_exps.weight", matrix: 12, columns: 256) == nil)

        try await write(Fixtures.fp8Model, folder.file("plain.gguf"), "Q4_K_S")
        var request = ConversionRequest(Fixtures.fp8Model, to: folder.file("weighed.gguf"), layout: "Q4_K_S")
        request.quantizer = "imatrix"
        request.statistics = output
        _ = try await Conversion.plan(request).run().value()
        let (plain, weighed) = (
            try #require(try ContainerRegistry.open(folder.file("plain.gguf"))), try #require(try ContainerRegistry.open(folder.file("weighed.gguf")))
        )
        func bytes(_ file: TensorFile, _ name: String) throws -> [UInt8] {
            let tensor = try #require(file.tensors.first { $0.name == name })
            return try file.bytes.read(tensor.byteCount, at: tensor.offset)
        }
        #expect(try bytes(plain, "blk.1.ffn_gate_exps.weight") != bytes(weighed, "blk.1.ffn_gate_exps.weight"))
        #expect(try bytes(plain, "blk.1.ffn_gate_inp.weight") == bytes(weighed, "blk.1.ffn_gate_inp.weight"))

        // The older form: records of name, calls and sums.
        var legacy: [UInt8] = []
        func append(_ value: Int32) { legacy += [UInt8](bytesOf: [value]) }
        append(1)
        append(26)
        legacy += "blk.0.ffn_gate.weight.....".utf8
        for value: Int32 in [2, 4] { append(value) }
        legacy += [UInt8](bytesOf: [Float(2), 4, 6, 8])
        try Data(legacy).write(to: URL(fileURLWithPath: folder.file("legacy.dat")))
        #expect(
            try ImportanceMatrix(reading: folder.file("legacy.dat")).importance(of: "blk.0.ffn_gate.weight.....", matrix: 0, columns: 4) == [
                1, 2, 3, 4,
            ])
    }

    /// Cut by size, the parts are numbered as llama.cpp numbers them, and together they are the one file.
    @Test func partsAreOneModel() async throws {
        let folder = try TemporaryDirectory()
        try await write(Fixtures.fp8Model, folder.file("one.gguf"), "Q4_K_M")
        var request = ConversionRequest(Fixtures.fp8Model, to: folder.file("parts"), layout: "Q4_K_M")
        request.shardSize = 200_000
        _ = try await Conversion.plan(request).run().value()
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.file("parts")).filter { $0.hasSuffix(".gguf") }.sorted()
        #expect(names.count > 3 && names[0] == "model-00001-of-000\(names.count).gguf", "\(names)")
        let whole = try #require(try ContainerRegistry.open(folder.file("one.gguf")))
        var tensors: [String] = []
        for (number, name) in names.enumerated() {
            let part = try #require(try ContainerRegistry.open(folder.file("parts/" + name)))
            let keys = [
                GGUFEntry("split.no", .u16(UInt16(number))), GGUFEntry("split.count", .u16(UInt16(names.count))),
                GGUFEntry("split.tensors.count", .i32(Int32(whole.tensors.count))),
            ]
            let mine = number == 0 ? Array(part.entries.dropFirst(part.entries.count - 3)) : part.entries
            #expect(mine == keys, "\(name)")
            tensors += part.tensors.map(\.name)
        }
        #expect(tensors == whole.tensors.map(\.name))
        let (one, parts) = (try Checkpoint(opening: folder.file("one.gguf")), try Checkpoint(opening: folder.file("parts")))
        #expect(one.config == parts.config && one.weights.map(\.name) == parts.weights.map(\.name))
        #expect(parts.sideFiles.map(\.name) == one.sideFiles.map(\.name))
        var comparison = VerificationRequest(folder.file("parts"), against: folder.file("one.gguf"))
        comparison.weightsOnly = true
        comparison.bounds.exact = true
        let verified = try await Verification.run(comparison).value()
        #expect(verified.passed, "\(verified.failures)")

        // One part is no model, nor are all but one, nor one twice.
        #expect(throws: DialectFailure.self) { try Checkpoint(opening: folder.file("parts/" + names[0])) }
        try FileManager.default.removeItem(atPath: folder.file("parts/" + names[1]))
        #expect(throws: CheckpointFailure.self) { try Checkpoint(opening: folder.file("parts")) }
        try FileManager.default.copyItem(atPath: folder.file("parts/" + names[2]), toPath: folder.file("parts/" + names[1]))
        #expect(throws: SafetensorsFailure.self) { try Checkpoint(opening: folder.file("parts")) }
    }

    @Test func singleFilesAreReplacedWhenAsked() async throws {
        let folder = try TemporaryDirectory()
        for (path, layout) in [("out.gguf", "Q8_0"), ("out.h5", "int4-g32")] {
            for isThere in [false, true] {
                var request = ConversionRequest(Fixtures.fp8Model, to: folder.file(path), layout: layout)
                if isThere { try Data("something else".utf8).write(to: URL(fileURLWithPath: folder.file(path))) }
                request.options.overwrite = true
                let report = try await Conversion.plan(request).run().value()
                #expect(report.audit.differences == 0)
                #expect(try Checkpoint(opening: folder.file(path)).weights.count > 100)
            }
        }
    }

    /// What the keys have no words for is refused: llama.cpp would compute something else.
    @Test(arguments: [
        ("rope_scaling.mscale", #""mscale": 0.7, "mscale_all_dim": 1.0"#), ("rope_scaling.mscale", #""mscale": 0"#),
        ("rope_scaling.attention_factor", #""mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.2"#),
        ("rope_scaling.truncate", #""mscale": 1.0, "mscale_all_dim": 1.0, "truncate": false"#),
        ("rope_scaling.invented", #""mscale": 1.0, "mscale_all_dim": 1.0, "invented": false"#),
    ])
    func rotationsThatLlamaCppDoesNotHaveAreRefused(_ field: String, _ text: String) async throws {
        let folder = try TemporaryDirectory()
        let rotary = try JSONValue(parsing: Array(#"{"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, \#(text)}"#.utf8))
        try Self.copy(Fixtures.fp8Model, to: folder.file("model")) { $0["rope_scaling"] = rotary }
        await #expect {
            try await write(folder.file("model"), folder.file("out.gguf"), "bf16")
        } throws: {
            "\($0)".contains(field)
        }
    }

    /// A model's directory with another configuration.
    private static func copy(_ source: String, to target: String, _ change: (inout JSONObject) -> Void) throws {
        try FileManager.default.copyItem(atPath: source, toPath: target)
        let path = target + "/config.json"
        var config = try #require(JSONValue(parsing: [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))).object)
        change(&config)
        try Data(JSONValue.object(config).text().utf8).write(to: URL(fileURLWithPath: path))
    }

    @Test func whatCannotBeReadIsNotLeftOut() async throws {
        let folder = try TemporaryDirectory()
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            try Self.copy(Fixtures.fp8Model, to: folder.file(name)) { _ in }
            try Data("{".utf8).write(to: URL(fileURLWithPath: folder.file(name + "/" + name)))
            await #expect(throws: DialectFailure.self) { try await write(folder.file(name), folder.file("out.gguf"), "bf16") }
        }
        try Self.copy(Fixtures.fp8Model, to: folder.file("bare")) { _ in }
        try? FileManager.default.removeItem(atPath: folder.file("bare/tokenizer.json"))
        let plan = try Conversion.plan(ConversionRequest(folder.file("bare"), to: folder.file("out.gguf"), layout: "bf16"))
        #expect(plan.warnings.contains { $0.contains("no tokenizer.json") })
    }

    /// What llama.cpp's tool joined out of parts says `split.count` 0 and is whole; numbers that no split has are refused, not trapped on.
    @Test func joinedFilesAreWhole() throws {
        func keys(_ count: GGUFValue, _ number: GGUFValue = .u16(0)) -> [GGUFEntry] {
            [GGUFEntry("general.architecture", .string("x")), GGUFEntry("split.no", number), GGUFEntry("split.count", count)]
        }
        for count in [GGUFValue.u16(0), .u16(1)] {
            #expect(try LlamaCppSplit.joined([("a", keys(count), 3)]).map(\.key) == ["general.architecture"])
        }
        for (count, number) in [(GGUFValue.i64(-1), GGUFValue.u16(0)), (.u16(2), .i32(-1)), (.u16(2), .u16(2)), (.i64(.min), .i64(.max))] {
            #expect(throws: DialectFailure.self) { try LlamaCppSplit.joined([("a", keys(count, number), 3)]) }
        }
    }

    /// The worked examples of `Formats/Containers/GGUF/FORMAT.md` and `Formats/Layouts/GGMLBlocks/FORMAT.md`.
    @Test func theWorkedExamplesAreTrue() throws {
        let tensors = [TensorDeclaration(name: "t", type: .f32, shape: [2])]
        let places = try #require(GGUF.arrange(tensors, metadata: FileMetadata(entries: [GGUFEntry("a", .u32(7))])))
        let head: [UInt8] =
            [0x47, 0x47, 0x55, 0x46, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
            + [1, 0, 0, 0, 0, 0, 0, 0, 0x61, 4, 0, 0, 0, 7, 0, 0, 0]
            + [1, 0, 0, 0, 0, 0, 0, 0, 0x74, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        #expect(places.pieces == [.init(offset: 0, bytes: head + [UInt8](repeating: 0, count: 22))])
        #expect(places.offsets == [96] && places.size == 128)

        let layout = try #require(GGMLBlockLayout(.q8_0))
        let buffer = try AlignedBuffer(byteCount: 34)
        let ones = [UInt16](repeating: 0x3F80, count: 32)
        try ones.withUnsafeBufferPointer { values throws(EncodingFault) in
            try layout.encode(values, rows: 0..<1, shape: MatrixShape(rows: 1, columns: 32), into: [buffer.slice(0..<34)])
        }
        #expect(buffer.array(of: UInt8.self, count: 34) == [0x08, 0x20] + [UInt8](repeating: 0x7F, count: 32))
    }

    /// An importance matrix of another model, and a quantizer that blocks do not take.
    @Test func evidenceThatDoesNotFitIsRefused() async throws {
        let folder = try TemporaryDirectory()
        var legacy: [UInt8] = [UInt8](bytesOf: [Int32(1), 26]) + "blk.0.ffn_gate.weight.....".utf8
        legacy += [UInt8](bytesOf: [Int32(2), 4]) + [UInt8](bytesOf: [Float(2), 4, 6, 8])
        try Data(legacy).write(to: URL(fileURLWithPath: folder.file("other.dat")))
        for (layout, path) in [("Q4_K_M", "out.gguf"), ("int4-g32", "out")] {
            var request = ConversionRequest(Fixtures.fp8Model, to: folder.file(path), layout: layout)
            request.quantizer = "imatrix"
            request.statistics = folder.file("other.dat")
            #expect { try Conversion.plan(request) } throws: { "\($0)".contains("it is of another model") }
        }
        for quantizer in ["mse", "hqq", "gptq", "awq"] {
            var request = ConversionRequest(Fixtures.fp8Model, to: folder.file("out.gguf"), layout: "Q4_K_M")
            request.quantizer = quantizer
            if ["gptq", "awq"].contains(quantizer) { request.tokens = .file(Fixtures.path("tokens-short.json")) }
            #expect { try Conversion.plan(request) } throws: { "\($0)".contains("takes the quantizer rtn and imatrix, not \(quantizer)") }
        }
    }

    /// A head that lies is refused with a sentence, wherever it lies.
    @Test func hostileFilesAreRefused() throws {
        let folder = try TemporaryDirectory()
        let seed = Fixtures.directory + "/../Fuzzing/Corpus/gguf/deepseek2"
        #expect(try Checkpoint(opening: seed).weights.count > 4)
        let whole = [UInt8](try Data(contentsOf: URL(fileURLWithPath: seed)))
        var random = SeededGenerator(18)
        var refused = 0
        let path = folder.file("mutated.gguf")
        for number in 0..<2000 {
            var bytes = whole
            if number % 4 == 0 {
                bytes.removeLast(1 + Int(random.next() % UInt64(whole.count - 1)))
            } else {
                for _ in 0...Int(random.next() % 3) { bytes[Int(random.next() % 1800)] = UInt8(truncatingIfNeeded: random.next()) }
            }
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            do { _ = try Checkpoint(opening: path) } catch {
                #expect((error as? any Failure)?.kind == .badData, "\(error)")
                refused += 1
            }
        }
        #expect(refused > 500)
    }
}
