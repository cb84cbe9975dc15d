import Foundation
import Recast
import TestSupport
import Testing

/// Bytes that nobody claims: codes, descriptions, files and stacks that a reader must take for what they are, or refuse by name.
@Suite struct UnclaimedBytesTests {
    func dense(_ change: (inout CheckpointBuilder) throws -> Void = { _ in }) throws -> CheckpointBuilder {
        var model = SyntheticModel()
        (model.quantized, model.files, model.hidden, model.intermediate, model.expertWidth) = (false, 1, 128, 96, 64)
        var builder = model.build()
        try change(&builder)
        return builder
    }

    func failure(_ body: () throws -> Void) -> (any Failure)? {
        do { try body() } catch let failure as any Failure { return failure } catch { Issue.record("\(error)") }
        return nil
    }

    // MARK: Codes

    static let foreign: [(method: String, tensors: [(String, ScalarType, [Int])])] = [
        ("exl2", [("q_weight", .i32, [32, 64]), ("q_scale", .i32, [8, 8]), ("q_invperm", .i32, [64])]),
        ("exl3", [("trellis", .i16, [4, 8, 64]), ("suh", .f16, [64]), ("svh", .f16, [128])]),
        ("hqq", [("W_q", .u8, [32, 64]), ("scale", .bf16, [1, 64]), ("zero", .bf16, [1, 64])]),
        ("aqlm", [("codes", .i16, [64, 8, 1]), ("codebooks", .f16, [1, 256, 1, 8]), ("scales", .f16, [64, 1, 1, 1])]),
        ("marlin", [("B", .i32, [4, 128]), ("s", .f16, [2, 64])]),
        ("bitsandbytes", [("weight", .u8, [2048, 1]), ("weight.absmax", .f32, [64]), ("weight.quant_map", .f32, [16])]),
        ("", [("weight", .i8, [64, 64]), ("weight_scale", .f32, [64, 1])]),
        ("", [("up_proj_packed", .i32, [4, 64, 8]), ("up_proj_scale", .bf16, [4, 64, 1])]),
        ("", [("weight", .u16, [64, 64])]),
    ]

    @Test(arguments: foreign.indices) func codesWithoutAReaderStopAConversionAndAreCopied(_ index: Int) throws {
        let (method, tensors) = Self.foreign[index]
        let folder = try TemporaryDirectory()
        let module = "model.layers.0.mlp.up_proj"
        try dense { builder in
            builder[module + ".weight"] = nil
            for (leaf, type, shape) in tensors {
                builder.add("\(module).\(leaf)", type, shape, [UInt8](repeating: 1, count: try #require(Shape.byteCount(shape, type))))
            }
            if !method.isEmpty { builder.config["quantization_config"] = .object(["quant_method": .string(method), "bits": .int(4)]) }
        }.write(to: folder.file("m"))
        for target in ["bf16", "fp8-block", "int4-g32"] {
            let error = failure { try convert(folder.file("m"), folder.file(target), to: target) }
            #expect(error?.kind == .badData, "\(String(describing: error))")
            #expect(error?.description.contains(module) == true || !method.isEmpty && error?.description.contains(method) == true)
            #expect(!FileManager.default.fileExists(atPath: folder.file(target)))
        }
        #expect(failure { _ = try ModelWeights(Checkpoint(opening: folder.file("m")), workers: 1) }?.kind == .badData)
        // A copy keeps the codes and what describes them.
        let checkpoint = try Checkpoint(opening: folder.file("m"), isUnstacked: false)
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "keep"))
        _ = try ConversionRun(plan: plan, checkpoint: checkpoint, destination: folder.file("copy")).execute()
        #expect(try storedTensors(folder.file("copy")) == storedTensors(folder.file("m")))
        let config = try JSONValue(parsing: FileTree.read(folder.file("copy/config.json"), limit: 1 << 20))
        #expect(config["quantization_config"]?["quant_method"]?.string == (method.isEmpty ? nil : method))
        #expect(!Inventory(of: checkpoint).findings.isEmpty)
    }

    /// INT8 in groups of 64 columns has just the shape of packed int4 in groups of 128 of twice as many.
    @Test func noLayoutIsRecognisedByShapeAlone() throws {
        var builder = try dense()
        let module = "model.layers.0.mlp.up_proj"
        builder[module + ".weight"] = nil
        builder.add(module + ".weight", .i8, [96, 128], [UInt8](repeating: 1, count: 96 * 128))
        builder.add(module + ".weight_scale_inv", .f32, [96, 2], [UInt8](repeating: 0, count: 96 * 8))
        let folder = try TemporaryDirectory()
        try builder.write(to: folder.file("m"))
        let error = failure { try Checkpoint(opening: folder.file("m")).requireReadable() }
        #expect(error?.description.contains("I8") == true && error?.description.contains("int4") == false)
        builder.config["quantization_config"] = .object(["quant_method": .string("w4afp8")])
        try builder.write(to: folder.file("n"))
        #expect(try Checkpoint(opening: folder.file("n")).weights.first { $0.name == module + ".weight" }?.dimensions == [96, 256])
    }

    // MARK: Descriptions

    static let description: JSONObject = [
        "quant_method": .string("gptq"), "bits": .int(4), "group_size": .int(128), "sym": .bool(false), "desc_act": .bool(false),
        "checkpoint_format": .string("gptq_v2"),
    ]

    func gptq(_ folder: TemporaryDirectory) throws -> (path: String, config: JSONObject, right: [String: GoldenTensor]) {
        try dense().write(to: folder.file("dense"))
        try convert(folder.file("dense"), folder.file("gptq"), to: "gptq-g32-asym")
        try convert(folder.file("gptq"), folder.file("right"), to: "bf16")
        try FileManager.default.removeItem(atPath: folder.file("gptq/recast.manifest.json"))
        let config = try #require(try JSONValue(parsing: FileTree.read(folder.file("gptq/config.json"), limit: 1 << 20)).object)
        return (folder.file("gptq"), config, try storedTensors(folder.file("right")))
    }

    @Test(arguments: [
        "", "text_config", "language_config", "llm_config", "thinker_config.text_config", "compression_config", "quantize_config.json", "null",
    ])
    func theDescriptionIsFoundWhereverItIsAndRemovedEverywhere(_ place: String) throws {
        let folder = try TemporaryDirectory()
        var (path, config, right) = try gptq(folder)
        let description = try #require(config["quantization_config"])
        config["quantization_config"] = nil
        switch place {
        case "", "null":
            config["text_config"] = .object(["quantization_config": description, "torch_dtype": .string("bfloat16")])
            if place == "null" { config["quantization_config"] = .null }
        case "compression_config": config["compression_config"] = description
        case "quantize_config.json":
            try FileTree.write(Array(description.text().utf8), to: path + "/quantize_config.json")
        default:
            var inner = JSONValue.object(["quantization_config": description])
            for key in place.split(separator: ".").reversed() { inner = .object([String(key): inner]) }
            for (key, value) in inner.object?.members ?? [] { config[key] = value }
        }
        try FileTree.write(Array(JSONValue.object(config).text().utf8), to: path + "/config.json")
        try convert(path, folder.file("out"), to: "bf16")
        #expect(try storedTensors(folder.file("out")) == right)
        for name in try FileTree.list(folder.file("out")) where name.hasSuffix(".json") && !name.contains("manifest") {
            let text = String(decoding: try FileTree.read(folder.file("out/" + name), limit: 1 << 20), as: UTF8.self)
            #expect(!text.contains("gptq"), "\(name)")
        }
    }

    @Test func descriptionsThatDisagreeAreRefused() throws {
        let folder = try TemporaryDirectory()
        let (path, _, _) = try gptq(folder)
        for (name, text) in [
            ("quantize_config.json", #"{"bits": 4, "group_size": 128}"#), ("quant_config.json", #"{"w_bit": 4, "q_group_size": 32}"#),
            ("quantization_config.json", #"{"quant_method": "awq", "bits": 4}"#),
            ("hf_quant_config.json", #"{"quantization": {"quant_algo": "NVFP4"}}"#),
            ("quant_model_description.json", #"{"model_quant_type": "W8A8_DYNAMIC"}"#),
        ] {
            try FileTree.write(Array(text.utf8), to: path + "/" + name)
            let error = failure { _ = try Checkpoint(opening: path) }
            #expect(error?.kind == .badData && error?.description.contains(name) == true, "\(name): \(String(describing: error))")
            try FileTree.remove(path + "/" + name)
        }
    }

    @Test func zeroPointsThatContradictTheVersionAreRefused() throws {
        let folder = try TemporaryDirectory()
        try dense().write(to: folder.file("dense"))
        try convert(folder.file("dense"), folder.file("gptq"), to: "gptq-g32")
        try FileManager.default.removeItem(atPath: folder.file("gptq/recast.manifest.json"))
        var config = try #require(try JSONValue(parsing: FileTree.read(folder.file("gptq/config.json"), limit: 1 << 20)).object)
        var description = try #require(config["quantization_config"]?.object)
        description["checkpoint_format"] = .string("gptq_v2")
        config["quantization_config"] = .object(description)
        try FileTree.write(Array(JSONValue.object(config).text().utf8), to: folder.file("gptq/config.json"))
        let error = failure { try convert(folder.file("gptq"), folder.file("out"), to: "bf16") }
        #expect(error?.kind == .badData && error?.description.contains("qzeros") == true, "\(String(describing: error))")
    }

    // MARK: Scales

    @Test(arguments: ["nvfp4", "mxfp4", "int4-g32", "awq-g32", "gptq-g32", "fp8-channel", "fp8-block", "mlx-4bit-g32", "w4afp8"])
    func aScaleThatIsNoNumberStopsTheWeightWhereverItStands(_ layout: String) throws {
        let folder = try TemporaryDirectory()
        try dense().write(to: folder.file("dense"))
        try convert(folder.file("dense"), folder.file("coded"), to: layout)
        try FileManager.default.removeItem(atPath: folder.file("coded/recast.manifest.json"))
        let checkpoint = try Checkpoint(opening: folder.file("coded"))
        let weight = try #require(checkpoint.weights.last { $0.layout?.isDense == false && $0.stored.count > 1 })
        let scale = try #require(zip(weight.parts, weight.stored).first { $0.0.leaf.contains("scale") })
        let bytes: [UInt8] =
            switch scale.1.type {
            case .bf16: [0xC0, 0x7F]
            case .f16: [0x00, 0x7E]
            case .f32: [0, 0, 0xC0, 0x7F]
            default: [scale.1.type == .f8E4M3 ? 0x7F : 0xFF]
            }
        let file = try PositionedFile.openForWriting(folder.file("coded/" + checkpoint.fileName(of: weight)))
        try file.write(bytes, at: scale.1.offset + scale.1.byteCount - bytes.count)
        for target in ["bf16", "f32", "int8-channel"] {
            let error = failure { try convert(folder.file("coded"), folder.file("out-" + target), to: target) }
            #expect(error?.kind == .badData && error?.description.contains(scale.1.name) == true, "\(target): \(String(describing: error))")
        }
    }

    // MARK: Files

    @Test(arguments: ["adapter_model.safetensors", "optimizer.safetensors", "consolidated.safetensors", "model.gguf"])
    func theModelIsTakenAndTheRestIsNamed(_ other: String) throws {
        let folder = try TemporaryDirectory()
        try dense().write(to: folder.file("m"))
        var stray = CheckpointBuilder()
        stray.add("other.weight", .f32, [2, 2], [UInt8](repeating: 0, count: 16))
        try stray.write(to: folder.file("stray"))
        try FileManager.default.moveItem(atPath: folder.file("stray/model.safetensors"), toPath: folder.file("m/" + other))
        let checkpoint = try Checkpoint(opening: folder.file("m"))
        #expect(!checkpoint.weights.contains { $0.name.hasPrefix("other") })
        #expect(checkpoint.findings.contains { $0.subject == other })
        try convert(folder.file("m"), folder.file("out"), to: "bf16")
        #expect(!FileManager.default.fileExists(atPath: folder.file("out/" + other)))
    }

    @Test func twoFormsThatMayBothBeTheModelAreRefused() throws {
        let folder = try TemporaryDirectory()
        try dense().write(to: folder.file("m"))
        for other in ["model-00001-of-00001.safetensors"] {
            try FileManager.default.copyItem(atPath: folder.file("m/model.safetensors"), toPath: folder.file("m/" + other))
            let error = failure { _ = try Checkpoint(opening: folder.file("m")) }
            #expect(error?.description.contains("model.safetensors") == true && error?.description.contains(other) == true)
            try FileTree.remove(folder.file("m/" + other))
        }
        try FileManager.default.moveItem(atPath: folder.file("m/model.safetensors"), toPath: folder.file("m/first.safetensors"))
        try FileManager.default.copyItem(atPath: folder.file("m/first.safetensors"), toPath: folder.file("m/second.safetensors"))
        #expect(failure { _ = try Checkpoint(opening: folder.file("m")) }?.kind == .badData)
        try FileTree.remove(folder.file("m/second.safetensors"))
        #expect(try !Checkpoint(opening: folder.file("m")).weights.isEmpty)
        // A shard of a cut without an index is missed.
        try FileManager.default.moveItem(atPath: folder.file("m/first.safetensors"), toPath: folder.file("m/model-00001-of-00002.safetensors"))
        #expect(failure { _ = try Checkpoint(opening: folder.file("m")) }?.description.contains("2 shards") == true)
    }

    @Test func linksOutOfTheSourceAreNotFollowed() throws {
        let folder = try TemporaryDirectory()
        try dense().write(to: folder.file("m"))
        try Data("secret".utf8).write(to: URL(fileURLWithPath: folder.file("secret.txt")))
        try FileManager.default.createSymbolicLink(atPath: folder.file("m/notes.txt"), withDestinationPath: folder.file("secret.txt"))
        try FileManager.default.createSymbolicLink(atPath: folder.file("m/gone.txt"), withDestinationPath: folder.file("nothing"))
        try Data("mine".utf8).write(to: URL(fileURLWithPath: folder.file("m/journal")))
        try convert(folder.file("m"), folder.file("out"), to: "bf16")
        #expect(try FileTree.list(folder.file("out")) == ["config.json", "journal", "model.safetensors", "recast.manifest.json"])
        let findings = try Checkpoint(opening: folder.file("m")).findings.map(\.subject)
        #expect(Set(findings).isSuperset(of: ["notes.txt", "gone.txt"]))
        // The cache of a hub is all links, to blobs beside the snapshots.
        let blobs = folder.file("hub/blobs"), snapshot = folder.file("hub/snapshots/1")
        try FileManager.default.createDirectory(atPath: blobs, withIntermediateDirectories: true)
        try FileManager.default.createDirectory(atPath: snapshot, withIntermediateDirectories: true)
        try Data("{}".utf8).write(to: URL(fileURLWithPath: blobs + "/abc"))
        try FileManager.default.copyItem(atPath: folder.file("m/model.safetensors"), toPath: blobs + "/def")
        try FileManager.default.createSymbolicLink(atPath: snapshot + "/tokenizer.json", withDestinationPath: "../../blobs/abc")
        try FileManager.default.createSymbolicLink(atPath: snapshot + "/model.safetensors", withDestinationPath: "../../blobs/def")
        #expect(try Checkpoint(opening: snapshot).sideFiles.map(\.name) == ["tokenizer.json"])
    }

    // MARK: Stacks

    func fused(transposed: Bool) throws -> CheckpointBuilder {
        var builder = try dense()
        for layer in 1..<3 {
            let prefix = "model.layers.\(layer).mlp.experts."
            let count = 5
            func bytes(_ expert: Int, _ name: String) -> [UInt8] { builder["\(prefix)\(expert).\(name).weight"]?.bytes ?? [] }
            func turned(_ bytes: [UInt8], _ rows: Int, _ columns: Int) -> [UInt8] {
                guard transposed else { return bytes }
                var result: [UInt8] = []
                for column in 0..<columns {
                    for row in 0..<rows {
                        let at = (row * columns + column) * 2
                        result += [bytes[at], bytes[at + 1]]
                    }
                }
                return result
            }
            var gateUp: [UInt8] = [], down: [UInt8] = []
            for expert in 0..<count {
                gateUp += turned(bytes(expert, "gate_proj") + bytes(expert, "up_proj"), 128, 128)
                down += turned(bytes(expert, "down_proj"), 128, 64)
            }
            for expert in 0..<count { for name in ["gate_proj", "up_proj", "down_proj"] { builder["\(prefix)\(expert).\(name).weight"] = nil } }
            builder.add(prefix + "gate_up_proj", .bf16, [count, 128, 128], gateUp)
            builder.add(prefix + "down_proj", .bf16, transposed ? [count, 64, 128] : [count, 128, 64], down)
        }
        // hidden 128 and inner 64: twice the inner width is the hidden one, so the shape of gate and up says nothing.
        return builder
    }

    @Test func stacksOfUnknownOrientationAreLeftAloneAndNamed() throws {
        let folder = try TemporaryDirectory()
        try fused(transposed: true).write(to: folder.file("m"))
        let checkpoint = try Checkpoint(opening: folder.file("m"))
        #expect(checkpoint.weights.contains { $0.name == "model.layers.1.mlp.experts.down_proj" && $0.dimensions.count == 3 })
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "int4-g32"))
        #expect(plan.warnings.count == 1 && plan.warnings[0].text.contains("%"))
        let config = try JSONValue(parsing: try #require(plan.texts.first { $0.name == "config.json" }).bytes)
        let ignored = (config["quantization_config"]?["ignore"]?.array ?? []).compactMap(\.string)
        #expect(ignored.contains("model.layers.1.mlp.experts"))
    }

    @Test func companionsFollowTheirWeight() throws {
        let folder = try TemporaryDirectory()
        try dense().write(to: folder.file("dense"))
        try convert(folder.file("dense"), folder.file("fp8"), to: "fp8-channel")
        var builder = try CheckpointBuilder(reading: folder.file("fp8"))
        let module = "model.layers.0.mlp.up_proj"
        builder.add(module + ".input_scale", .f32, [1], CheckpointBuilder.bytes(Float(0.5).bitPattern))
        builder.add("model.layers.0.self_attn.k_scale", .f32, [1], CheckpointBuilder.bytes(Float(0.5).bitPattern))
        try builder.write(to: folder.file("m"))
        for target in ["bf16", "int4-g32", "nvfp4", "fp8-block"] {
            try convert(folder.file("m"), folder.file(target), to: target)
            #expect(try !storedTensors(folder.file(target)).keys.contains { $0.hasSuffix("input_scale") || $0.hasSuffix("k_scale") })
            let plan = try ConversionPlan(converting: Checkpoint(opening: folder.file("m")), choice: LayoutChoice(target: target))
            #expect(plan.notes.contains { $0.text.contains("input_scale") && $0.text.contains("k_scale") })
        }
        try convert(folder.file("m"), folder.file("same"), to: "fp8-channel")
        #expect(try storedTensors(folder.file("same"))[module + ".input_scale"] != nil)
        // What lies beside weights of another layout is no loss; beside the same one it is.
        let (reference, other) = (try Checkpoint(opening: folder.file("m")), try Checkpoint(opening: folder.file("bf16")))
        let audit = try WeightAudit(reference: reference, candidate: other)
        #expect(audit.missing.isEmpty && audit.companions.count == 2)
        let same = try WeightAudit(reference: reference, candidate: Checkpoint(opening: folder.file("fp8")))
        #expect(same.missing.count == 2 && same.companions.isEmpty)
        // ModelOpt's readers look for the scale of inputs: a weight that stays what it is keeps it, whatever becomes of others.
        let rules = try Recipe(yaml: "rules: [{match: '*.self_attn.*_proj*', to: bf16}]", path: "r")
        try convert(folder.file("dense"), folder.file("fp4"), to: "nvfp4-modelopt", recipe: rules)
        builder = try CheckpointBuilder(reading: folder.file("fp4"))
        builder.add(module + ".input_scale", .f32, [], CheckpointBuilder.bytes(Float(0.5).bitPattern))
        builder.add("model.layers.0.self_attn.k_scale", .f32, [], CheckpointBuilder.bytes(Float(0.5).bitPattern))
        try builder.write(to: folder.file("half"))
        try convert(folder.file("half"), folder.file("whole"), to: "nvfp4-modelopt")
        let whole = try storedTensors(folder.file("whole"))
        #expect(whole[module + ".input_scale"] == (try storedTensors(folder.file("half")))[module + ".input_scale"])
        #expect(whole["model.layers.0.self_attn.o_proj.weight_scale_2"] != nil && whole["model.layers.0.self_attn.k_scale"] == nil)
        try convert(folder.file("half"), folder.file("plain"), to: "bf16")
        #expect(try storedTensors(folder.file("plain"))[module + ".input_scale"] == nil)
    }

    @Test(arguments: [
        "mlp.router", "mlp.router.classifier", "mlp.gate.wg", "mlp.shared_expert_gate", "audio_tower.q_proj", "vision_tower.fc1",
        "multi_modal_projector.linear_1",
    ])
    func whatIsNeverQuantizedIsFoundUnderAllItsNames(_ module: String) throws {
        let folder = try TemporaryDirectory()
        var builder = try dense()
        let name = "model.layers.1.\(module).weight"
        builder.add(name, .bf16, [32, 128], [UInt8](repeating: 0x3C, count: 32 * 256))
        try builder.write(to: folder.file("m"))
        for target in ["int4-g32", "fp8-block", "nvfp4-modelopt"] {
            let plan = try ConversionPlan(converting: Checkpoint(opening: folder.file("m")), choice: LayoutChoice(target: target))
            let planned = try #require(plan.weights.first { $0.module == "model.layers.1." + module })
            #expect(planned.road == .passthrough, "\(target)")
            let config = String(decoding: try #require(plan.texts.first { $0.name == "config.json" }).bytes, as: UTF8.self)
            #expect(config.contains("model.layers.1." + module), "\(target)")
        }
    }

    // MARK: Fields

    @Test(arguments: [
        ("hidden_act", "\"gelu\""), ("moe_layer_freq", "2"), ("sliding_window", "128"), ("attn_logit_softcapping", "30.0"),
        ("rope_interleave", "\"no\""),
        ("attention_bias", "1"), ("scoring_func", "\"tanh\""), ("topk_method", "\"random\""), ("num_key_value_heads", "2"), ("mlp_bias", "true"),
        ("rope_scaling", #"{"type": "yarn", "factor": 4, "truncate": 1}"#), ("rope_scaling", #"{"type": "llama3", "factor": 4}"#),
        ("scoring_func", "\"softmax\""), ("topk_method", "\"greedy\""), ("num_experts_per_tok", "null"), ("routed_scaling_factor", "null"),
        ("rope_scaling", #"{"type": "default", "partial_rotary_factor": 0.5}"#),
        ("rms_norm_eps", "\"small\""), ("num_experts_per_tok", "-1"), ("index_topk", "2048"), ("rope_theta", "0"),
    ])
    func aFieldThatChangesTheArithmeticIsReadOrRefused(_ field: String, _ value: String) throws {
        var builder = try dense()
        builder.config[field] = try JSONValue(parsing: Array(value.utf8))
        let error = failure { _ = try ModelConfiguration(config: .object(builder.config)) }
        #expect(error?.kind == .badData && error?.description.contains(field) == true, "\(String(describing: error))")
    }

    /// transformers takes one description of the rotation whole, others the other.
    @Test func twoDescriptionsOfARotationMustSayTheSame() throws {
        let yarn = #"{"type": "yarn", "factor": 8, "original_max_position_embeddings": 16}"#
        for (other, isSame) in [
            (#"{"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 16}"#, true), ("{}", true), ("null", true),
            (#"{"rope_type": "default"}"#, false), (#"{"rope_theta": 500000}"#, false),
            (#"{"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 16, "beta_fast": 4}"#, false),
        ] {
            var builder = try dense()
            builder.config["rope_scaling"] = try JSONValue(parsing: Array(yarn.utf8))
            builder.config["rope_parameters"] = try JSONValue(parsing: Array(other.utf8))
            let error = failure { _ = try ModelConfiguration(config: .object(builder.config)) }
            #expect((error == nil) == isSame, "\(other): \(String(describing: error))")
        }
    }

    @Test(arguments: [
        ("attn_logit_softcapping", "null"), ("sliding_window", "null"), ("use_sliding_window", "false"), ("use_cache", "true"),
        ("pruned_heads", "{}"),
    ])
    func fieldsAtRestAreNoObstacle(_ field: String, _ value: String) throws {
        var builder = try dense()
        builder.config[field] = try JSONValue(parsing: Array(value.utf8))
        _ = try ModelConfiguration(config: .object(builder.config))
    }

    // MARK: Hostile sizes

    @Test(arguments: [
        [("m.weight", "F8_E4M3", "[9223372036854775807,0]"), ("m.weight_scale_inv", "F32", "[1,0]")],
        [("m.qweight", "I32", "[281474976710657,0]"), ("m.qzeros", "I32", "[1,0]"), ("m.scales", "F16", "[1,0]"), ("m.g_idx", "I32", "[0]")],
        [("m.weight_packed", "U8", "[0,281474976710656]"), ("m.weight_scale", "U8", "[0,281474976710656]")],
        [("m.weight", "U32", "[0,281474976710656]"), ("m.scales", "BF16", "[0,1]"), ("m.biases", "BF16", "[0,1]")],
        [("a.weight", "F32", "[281474976710656,0]")], [("a.weight", "BF16", "[281474976710656,281474976710656,0]")],
        [("experts.0.up_proj.weight", "BF16", "[2,0]")],
    ])
    func hugeDimensionsOfEmptyTensorsNeitherTrapNorHang(_ tensors: [(String, String, String)]) throws {
        let folder = try TemporaryDirectory()
        let entries = tensors.map { "\"\($0.0)\":{\"dtype\":\"\($0.1)\",\"shape\":\($0.2),\"data_offsets\":[0,0]}" }.joined(separator: ",")
        var header = Array("{\(entries)}".utf8)
        header += [UInt8](repeating: 0x20, count: (8 - header.count % 8) % 8)
        try FileTree.write(CheckpointBuilder.bytes(UInt64(header.count)) + header, to: folder.file("model.safetensors"))
        for target in ["bf16", "f32", "mlx-4bit", "int4-g32"] {
            do {
                let checkpoint = try Checkpoint(opening: folder.file("model.safetensors"))
                _ = Inventory(of: checkpoint)
                let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target))
                _ = try ConversionRun(plan: plan, checkpoint: checkpoint, destination: folder.file("out-" + target)).execute()
                _ = try WeightAudit(reference: checkpoint, candidate: checkpoint)
            } catch is any Failure {}
        }
    }
}
