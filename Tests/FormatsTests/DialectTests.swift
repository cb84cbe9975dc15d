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
            let reading = LlamaCppReading([tensor], [GGUFEntry("general.architecture", .string(name))], isUnstacked: true)
            #expect(reading.tensors.count == (isStack ? 4 : 1) && matrix < reading.tensors.count)
            #expect(reading.tensors[matrix].name == weight.name)
            #expect(reading.tensors[matrix].shape == weight.dimensions)
            found += 1
        }
        #expect(found >= 25)
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
        let back = DialectRegistry.unstacked(tensors, config: Self.config) { Issue.record("\($0): \($1)") }
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

extension ModelRoles {
    /// Whether a weight is of the modules behind the layers, which some dialects leave out.
    fileprivate func isBehind(_ name: String, layers: Int) -> Bool { (WeightName.layer(name) ?? 0) >= layers }
}
