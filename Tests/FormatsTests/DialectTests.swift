import Recast
import TestSupport
import Testing

/// What a dialect stores it reads back: the same weights, shapes and bytes under the same names.
@Suite struct DialectTests {
    /// A weight by its name, of a shape that every cut fits.
    private static func weights(_ architecture: Architecture, layers: Int, experts: Int) -> [LogicalTensor] {
        ModuleRole.allCases.flatMap { role -> [LogicalTensor] in
            let isExpert = ModuleRole.routedExpert.contains(role)
            return (0..<layers).flatMap { layer in
                (0..<(isExpert ? experts : 1)).compactMap { expert -> LogicalTensor? in
                    guard let module = architecture.module(role, layer: layer, expert: expert) else { return nil }
                    return LogicalTensor(name: module + ".weight", dimensions: role == .keyValueUp ? [20, 8] : role.isLinear ? [12, 8] : [8])
                }
            }
        }.reduce(into: []) { all, tensor in if !all.contains(where: { $0.name == tensor.name }) { all.append(tensor) } }
    }

    private static let config: JSONValue = .object([
        "num_hidden_layers": .int(3), "n_routed_experts": .int(4), "num_attention_heads": .int(4), "qk_nope_head_dim": .int(2), "v_head_dim": .int(3),
    ])

    /// Names of ranks and back, for every module that the inference code has; a language model inside another is none of its.
    @Test(arguments: Architecture.known.filter { $0.carried.isEmpty }) func rankNamesAreInverses(_ architecture: Architecture) {
        var found = 0
        for weight in Self.weights(architecture, layers: 3, experts: 4) {
            for leaf in ["weight", "weight_scale_inv"] {
                let tensor = String(weight.name.dropLast("weight".count)) + leaf
                guard let (name, division) = DeepSeekRanks.name(of: tensor) else { continue }
                found += 1
                #expect(DeepSeekRanks.canonicalName(of: name)?.name == tensor)
                #expect(DeepSeekRanks.canonicalName(of: name)?.division == division)
            }
        }
        #expect(found >= 20)
    }

    /// llama.cpp's names and back, for every module that its files hold.
    @Test(arguments: Architecture.known.filter { LlamaCpp.name(of: $0) != nil })
    func llamaCppsNamesAreInverses(_ architecture: Architecture) throws {
        let name = try #require(LlamaCpp.name(of: architecture))
        let roles = ModelRoles(architecture)
        var found = 0
        for weight in Self.weights(architecture, layers: 3, experts: 4) {
            let module = String(WeightName.module(weight.name))
            guard let (stored, matrix) = LlamaCpp.place(of: module, roles: roles) else { continue }
            let isStack = stored.hasSuffix("_exps")
            let shape = (isStack ? [4] : []) + weight.dimensions
            let tensor = StoredTensor(
                name: stored + ".weight", type: .f32, shape: shape, offset: 64, byteCount: shape.reduce(4, *))
            let entries = [
                GGUFEntry("general.architecture", .string(name)), GGUFEntry(name + ".attention.head_count", .u32(3)),
                GGUFEntry(name + ".attention.key_length", .u32(4)),
            ]
            let reading = try LlamaCppReading([tensor], entries, isUnstacked: true) { _ in [] }
            #expect(reading.paired.map(\.headRows) == (name == "llama" && ["attn_q", "attn_k"].contains { stored.hasSuffix($0) } ? [4] : []))
            #expect(reading.tensors.count == (isStack ? 4 : 1) && matrix < reading.tensors.count)
            // A language model out of several comes back by itself.
            let prefix = architecture.carried.isEmpty || name != "deepseek2" ? "" : "language_model."
            #expect(prefix + reading.tensors[matrix].name == weight.name)
            #expect(reading.tensors[matrix].shape == weight.dimensions)
            found += 1
        }
        #expect(found >= 20)
    }

    /// Mistral's names and back, for every module that its releases have.
    @Test func mistralsNamesAreInverses() throws {
        let model = DialectModel(Self.config, roles: ModelRoles(Mistral.family))
        var tensors: [StoredTensor] = []
        var names: [String] = []
        for weight in Self.weights(Mistral.family, layers: 3, experts: 4) {
            for leaf in ["weight", "weight_scale", "weight_packed"] {
                let name = String(weight.name.dropLast("weight".count)) + leaf
                let own = LogicalTensor(name: name, dimensions: weight.dimensions)
                guard (try? Mistral().pieces(of: own, in: model))?.count == 1 else { continue }
                names.append(name)
                tensors.append(
                    StoredTensor(
                        name: Mistral().storedName(of: name, isStacked: false), type: .bf16, shape: weight.dimensions, offset: 0, byteCount: 0))
            }
        }
        #expect(names.count > 200 && tensors.allSatisfy { !$0.name.hasPrefix("model.") && !$0.name.contains("self_attn") })
        #expect(Mistral.isNative(tensors) && Mistral.canonical(tensors).map(\.name) == names)
        #expect(!Mistral.isNative(names.map { StoredTensor(name: $0, type: .bf16, shape: [1], offset: 0, byteCount: 2) }))
        // Scales of a whole tensor have names of their own.
        let scales = ["qscale_weight", "qscale_act"].map {
            StoredTensor(name: "layers.1.experts.3.w2." + $0, type: .f32, shape: [], offset: 0, byteCount: 4)
        }
        #expect(
            Mistral.canonical(scales).map(\.name)
                == ["weight_scale", "input_scale"].map { "model.layers.1.mlp.experts.3.down_proj." + $0 })
    }

    /// Large 3's parameters, its fields without a translation among them, become a configuration that is read, and come back.
    @Test(arguments: [true, false]) func mistralsParametersComeBack(_ appliesScale: Bool) throws {
        let text = """
            {"dim": 7168, "n_layers": 61, "n_heads": 128, "n_kv_heads": 128, "hidden_dim": 16384, "norm_eps": 1e-06, "vocab_size": 131072,
             "tied_embeddings": false, "max_position_embeddings": 294912, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
             "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 10000.0, "vision_encoder": {"hidden_size": 1664},
             "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 8192},
             "yarn": {"factor": 36, "original_max_position_embeddings": 8192, "beta": 32, "alpha": 1, "apply_scale": \(appliesScale)},
             "moe": {"num_experts": 128, "num_experts_per_tok": 4, "num_shared_experts": 1, "expert_hidden_dim": 4096, "first_k_dense_replace": 3,
                     "route_every_n": 1, "routed_scale": 1.0, "num_expert_groups": 1, "num_expert_groups_per_tok": 1}}
            """
        let parameters = try #require(try JSONValue(parsing: Array(text.utf8)).object)
        let config = try MistralParameters.config(of: parameters)
        let model = try ModelConfiguration(config: .object(config))
        #expect(model.layers == 61 && model.denseLayers == 3 && model.router?.experts == 128 && model.router?.scoring == .softmax)
        #expect(model.rotary.queryGrowth == .init(beta: 0.1, length: 8192) && model.rotary.yarn?.betaFast == 32)
        #expect(model.rotary.yarn?.mscaleAllDimensions == (appliesScale ? 1 : 0) && model.rotary.yarn?.attentionFactor == (appliesScale ? nil : 1))
        let back = try MistralParameters.parameters(of: config)
        #expect(Set(back.members.map(\.key)) == Set(parameters.members.map(\.key)))
        for (key, value) in parameters.members { #expect(back[key]?.comparable == value.comparable, "\(key)") }
        // What the words of params.json cannot say is refused, and what nobody knows is not lost on the way.
        var sigmoid = config
        sigmoid["scoring_func"] = .string("sigmoid")
        #expect(throws: DialectFailure.self) { try MistralParameters.parameters(of: sigmoid) }
        var odd = parameters
        odd["attention_chunk"] = .int(4096)
        #expect(throws: ArchitectureFailure.self) { try ModelConfiguration(config: .object(try MistralParameters.config(of: odd))) }
        // A field that both sides know by two names says one thing; what `moe` holds besides stays in it.
        odd = parameters
        odd["hidden_size"] = .int(64)
        #expect(throws: DialectFailure.self) { try MistralParameters.config(of: odd) }
        var doubled = config
        doubled["dim"] = .int(77)
        #expect(throws: DialectFailure.self) { try MistralParameters.parameters(of: doubled) }
        odd = parameters
        var moe = try #require(parameters["moe"]?.object)
        moe["capacity_factor"] = .double(1.25)
        odd["moe"] = .object(moe)
        #expect(try MistralParameters.parameters(of: MistralParameters.config(of: odd))["moe"]?.comparable == odd["moe"]?.comparable)
        odd = parameters
        odd["llama_4_scaling"] = .object(["beta": .double(0.1), "original_max_position_embeddings": .int(4096)])
        #expect(throws: ArchitectureFailure.self) { try ModelConfiguration(config: .object(try MistralParameters.config(of: odd))) }
    }

    /// A key of the architecture that nobody here knows is no reason to guess: the configuration gets it, and its readers refuse it by name.
    @Test(arguments: [
        ("attention.scale", GGUFValue.f32(0.1), true), ("attention.causal", .bool(false), true), ("attention.causal", .bool(true), false),
        ("attn_logit_softcapping", .f32(30), true), ("attn_logit_softcapping", .f32(0), false), ("rope.scaling.finetuned", .bool(true), false),
    ]) func unknownKeysAreNotForgotten(_ key: String, _ value: GGUFValue, _ counts: Bool) throws {
        var entries: [GGUFEntry] = [
            GGUFEntry("general.architecture", .string("llama")), GGUFEntry("llama.block_count", .u32(2)), GGUFEntry("llama.context_length", .u32(64)),
            GGUFEntry("llama.embedding_length", .u32(8)), GGUFEntry("llama.feed_forward_length", .u32(16)), GGUFEntry("llama.vocab_size", .u32(9)),
            GGUFEntry("llama.attention.head_count", .u32(2)), GGUFEntry("llama.attention.layer_norm_rms_epsilon", .f32(1e-5)),
            GGUFEntry("llama.rope.dimension_count", .u32(4)), GGUFEntry("llama.rope.freq_base", .f32(10000)),
        ]
        #expect(try ModelConfiguration(config: .object(LlamaCppReading([], entries, isUnstacked: true) { _ in [] }.config)).layers == 2)
        entries.append(GGUFEntry("llama." + key, value))
        let reading = try LlamaCppReading([], entries, isUnstacked: true) { _ in [] }
        #expect((reading.config["llama." + key] != nil) == counts && reading.notes.contains { $0.subject == "llama." + key } == counts)
        #expect(((try? ModelConfiguration(config: .object(reading.config))) == nil) == counts)
    }

    /// Every row and column of a divided weight lies on one rank.
    @Test(arguments: [1, 2, 4]) func ranksPartitionEveryWeight(_ ranks: Int) throws {
        let model = DialectModel(Self.config, roles: ModelRoles(Architecture.named("deepseek_v3")))
        for weight in Self.weights(try #require(Architecture.named("deepseek_v3")), layers: 3, experts: 4) {
            guard let pieces = try? DeepSeekRanks(ranks).pieces(of: weight, in: model), !pieces.isEmpty else { continue }
            let parts = pieces.compactMap(\.split)
            #expect(parts.isEmpty || parts.count == ranks)
            for axis in Set(parts.map(\.axis)) {
                let size = weight.dimensions[axis]
                let covered = parts.flatMap { Array($0.range(of: size)) }
                #expect(covered == Array(0..<size), "\(weight.name)")
            }
            #expect(pieces.allSatisfy { $0.rank.map { (0..<ranks).contains($0) } ?? false })
        }
    }

    /// MLX's stacks, and what reading makes of them: every value back in its place. Names of gpt-oss are refused.
    @Test(arguments: Architecture.known.filter { $0.name != "gpt-oss" }) func stacksComeApart(_ architecture: Architecture) throws {
        let model = DialectModel(Self.config, roles: ModelRoles(architecture))
        let weights = Self.weights(architecture, layers: 3, experts: 4).filter { !model.roles.isBehind($0.name, layers: 3) }
        // Stored tensors as the dialect has them, each stack once, with the bytes of its members one after another.
        var stacks: [String: [(index: Int, name: String, view: WeightView?)]] = [:]
        var order: [String] = []
        for weight in weights {
            for piece in try MLX().pieces(of: weight, in: model) {
                if stacks[piece.module] == nil { order.append(piece.module) }
                stacks[piece.module, default: []].append((piece.stack?.index ?? 0, weight.name, piece.view))
                if let stack = piece.stack { #expect((0..<stack.count).contains(stack.index)) }
            }
        }
        var tensors: [StoredTensor] = []
        var offset = 0
        var places: [Int: String] = [:]
        for module in order where stacks[module]?.first?.view == nil {
            let members = try #require(stacks[module]).sorted { $0.index < $1.index }
            #expect(members.map(\.index) == Array(0..<members.count), "\(module)")
            let one = try #require(weights.first { $0.name == members[0].name }).dimensions
            let size = try #require(Shape.byteCount(one, .bf16))
            for (number, member) in members.enumerated() { places[offset + number * size] = member.name }
            let shape = members.count > 1 ? [members.count] + one : one
            tensors.append(
                StoredTensor(name: module + ".weight", type: .bf16, shape: shape, file: 0, offset: offset, byteCount: members.count * size))
            offset += members.count * size
        }
        var config = try #require(Self.config.object)
        config["model_type"] = architecture.modelTypes.min().map(JSONValue.string)
        let back = DialectRegistry.unstacked(tensors, config: .object(config)) { Issue.record("\($0): \($1)") }
        for tensor in back {
            #expect(places[tensor.offset] == tensor.name)
            #expect(weights.first { $0.name == tensor.name }?.dimensions == tensor.shape)
        }
        #expect(back.count == places.count)
        // Parts of a weight cover every row once.
        for (_, members) in Dictionary(grouping: stacks.values.joined().filter { $0.view != nil }, by: \.name) {
            let rows = members.compactMap(\.view?.rows).flatMap(Array.init).sorted()
            #expect(rows == Array(0..<20))
        }
    }
}

extension JSONValue {
    /// Whatever the order of fields.
    fileprivate var comparable: [String: JSONValue] {
        object.map { Dictionary(uniqueKeysWithValues: $0.members.map { ($0.key, $0.value) }) } ?? ["": self]
    }
}

extension ModelRoles {
    /// Whether a weight is of the modules behind the layers, which some dialects leave out.
    fileprivate func isBehind(_ name: String, layers: Int) -> Bool { (WeightName.layer(name) ?? 0) >= layers }
}
