import Architectures
import Formats
import Tensors

extension Checkpoint {
    /// Groups the stored tensors into weights: families claim what they know, the rest is dense or opaque.
    mutating func recogniseWeights(_ tensors: [StoredTensor]) throws {
        var modules: [Substring: [Int]] = [:]
        modules.reserveCapacity(tensors.count)
        for (index, tensor) in tensors.enumerated() { modules[WeightName.module(tensor.name), default: []].append(index) }

        // Weights keep the order of their first stored tensor, so that output follows input.
        var claimed = [Bool](repeating: false, count: tensors.count)
        weights.reserveCapacity(tensors.count)
        for index in tensors.indices where !claimed[index] {
            let name = WeightName.module(tensors[index].name)
            if MLX.halves.contains(where: { $0 == WeightName.leaf(String(name)) }),
                let weight = try latentProjection(String(WeightName.module(String(name))), modules, tensors, &claimed)
            {
                weights.append(weight)
                continue
            }
            let members = modules[name] ?? []
            if members.count > 1 || tensors[index].type.block != nil
                || LayoutRegistry.companionLeaves.contains(String(WeightName.leaf(tensors[index].name)))
            {
                if let weight = try recognise(String(name), members.filter { !claimed[$0] }, tensors, &claimed) {
                    weights.append(weight)
                    if claimed[index] { continue }
                }
            }
            claimed[index] = true
            addPlain(tensors[index])
        }
        if roles.joinsGateAndUp { joinHalves() }
        if !unpaired.isEmpty { findLookalikes(tensors) }
    }

    /// Makes one weight of the gate and up projections of an expert where the architecture has them as one and the files apart.
    private mutating func joinHalves() {
        let places = Dictionary(weights.indices.map { (weights[$0].name, $0) }) { first, _ in first }
        var joined: [Int: Weight] = [:]
        var taken = Set<Int>()
        for (index, gate) in weights.enumerated() {
            guard let pair = GptOssExperts.pair(of: gate.name), let place = places[pair.up], places[pair.whole] == nil else { continue }
            let up = weights[place]
            guard up.dimensions == gate.dimensions, let first = gate.layout, let second = up.layout,
                let layout = GptOssExperts.joined(gate: first, up: second)
            else { continue }
            var dimensions = gate.dimensions
            dimensions[0] *= 2
            joined[index] = Weight(name: pair.whole, dimensions: dimensions, layout: layout, stored: gate.stored + up.stored)
            taken.insert(place)
        }
        weights = weights.indices.compactMap { taken.contains($0) ? nil : joined[$0] ?? weights[$0] }
    }

    /// MLX's split key and value projection, if both halves are there.
    private func latentProjection(
        _ parent: String, _ modules: [Substring: [Int]], _ tensors: [StoredTensor], _ claimed: inout [Bool]
    ) throws -> Weight? {
        let members = MLX.halves.flatMap { modules[Substring(parent + "." + $0)] ?? [] }
        do {
            let found = try MLX.latentProjection(
                parent, members.map { tensors[$0] }, quantization: quantization,
                read: { [files] in try files[$0.file].read($0.byteCount, at: $0.offset) })
            guard let found else { return nil }
            for index in members { claimed[index] = true }
            return Weight(name: found.name, dimensions: found.dimensions, layout: found.layout, stored: found.stored)
        } catch let fault as LayoutFault {
            throw CheckpointFailure.contradiction(tensor: fault.tensor, file: fileNames[tensors[members[0]].file], reason: fault.reason)
        }
    }

    private func recognise(_ name: String, _ members: [Int], _ tensors: [StoredTensor], _ claimed: inout [Bool]) throws -> Weight? {
        let module = ModuleTensors(
            module: name, tensors: members.map { (String(WeightName.leaf(tensors[$0].name)), tensors[$0].squeezed) },
            read: { try files[$0.file].read($0.byteCount, at: $0.offset) })
        do {
            var accepted: [Weight] = []
            var fault: LayoutFault?
            for family in LayoutRegistry.families {
                do {
                    if let weight = try weight(name, module, family) { accepted.append(weight) }
                } catch let found as LayoutFault {
                    // Another family may explain what this one cannot.
                    fault = fault ?? found
                }
            }
            guard let first = accepted.first else {
                if let fault { throw fault }
                return nil
            }
            // The same bytes as two different weights: nobody can say which they are.
            if let other = accepted.dropFirst().first {
                throw LayoutFault(
                    first.stored[0].name, "could be \(first.layoutName) or \(other.layoutName); quantization_config must say which it is")
            }
            for index in members where first.stored.contains(where: { $0.name == tensors[index].name }) { claimed[index] = true }
            return first
        } catch let fault as LayoutFault {
            let place = module.tensors.first { $0.tensor.name == fault.tensor }?.tensor.file ?? tensors[members[0]].file
            throw CheckpointFailure.contradiction(tensor: fault.tensor, file: fileNames[place], reason: fault.reason)
        }
    }

    /// The weight that one family sees in a module.
    private func weight(_ name: String, _ module: ModuleTensors, _ family: any LayoutFamily.Type) throws -> Weight? {
        guard let found = try family.recognise(module, config: quantization) else { return nil }
        var stored: [StoredTensor] = []
        for part in found.layout.parts(of: MatrixShape(found.dimensions)) {
            guard let tensor = module[part.leaf] else {
                throw LayoutFault(name, "is \(found.layout.name) but its \(part.leaf) is found in no shard")
            }
            guard tensor.type == part.type, tensor.shape == part.shape else {
                throw LayoutFault(tensor.name, "is \(tensor.summary), expected \(part.type.rawValue) \(part.shape) for \(found.layout.name)")
            }
            stored.append(tensor)
        }
        return Weight(
            name: name.isEmpty ? found.leaf : name + "." + found.leaf, dimensions: found.dimensions, layout: found.layout, stored: stored)
    }

    /// A tensor that no family claimed: a dense weight, bytes to carry, half of a broken pair, or codes that nobody reads.
    private mutating func addPlain(_ tensor: StoredTensor) {
        let leaf = WeightName.leaf(tensor.name)
        let isScale = LayoutRegistry.companionLeaves.contains(String(leaf)) && !LayoutRegistry.activationLeaves.contains(String(leaf))
        let codes = StoredCodes(tensor, leaf: leaf)
        if isScale || codes != nil {
            unpaired.append(
                UnpairedTensor(
                    name: tensor.name, file: fileNames[tensor.file], summary: tensor.summary, isCompanion: codes == nil,
                    isUnknown: codes == .unknown, lookalikes: []))
        }
        let isDense = tensor.type.isDenseFloat && !isScale && codes == nil
        weights.append(
            Weight(name: tensor.name, dimensions: tensor.shape, layout: isDense ? .dense(tensor.type) : nil, stored: [tensor]))
    }

    /// Names in the same module, or near it, that could be a lost scale.
    private mutating func findLookalikes(_ tensors: [StoredTensor]) {
        for index in unpaired.indices.prefix(8) {
            let module = String(WeightName.module(unpaired[index].name))
            let own = unpaired[index].name
            unpaired[index].lookalikes = Array(
                tensors.lazy.map(\.name)
                    .filter { $0.hasPrefix(module) && $0 != own && !$0.dropFirst(module.count).hasPrefix(".weight_shape") }
                    .filter { $0.dropFirst(module.count).contains("scale") || $0.hasSuffix(".weight") && own.contains("scale") }
                    .prefix(3))
        }
    }

    /// Refuses a checkpoint of which any value cannot be known: a method that is not read, codes without a reader or without their scales,
    /// scales without their codes.
    package func requireReadable() throws {
        if let obstacle = quantization?.obstacle {
            // A description that outlived its codes says nothing about dense weights.
            let codes = unpaired.first { !$0.isCompanion }?.name ?? weights.first { $0.layout?.isDense == false }?.stored[0].name
            if let codes { throw CheckpointFailure.unreadable(path: describedAt ?? "config.json", reason: "\(obstacle); \(codes) holds such") }
        }
        let codes = unpaired.filter { !$0.isCompanion }
        if !unpaired.isEmpty { throw CheckpointFailure.unpaired(codes.isEmpty ? unpaired : codes) }
    }
}

/// Why a tensor that no layout claims must hold codes.
private enum StoredCodes {
    /// A type that needs a scale, or a name of a known layout without what belongs to it.
    case unpaired
    /// A type or a name of codes that no layout here has.
    case unknown

    /// Names that other tools give to codes and to what decodes them: EXL2 and EXL3, HQQ, AQLM, VPTQ, QuIP#, Marlin, bitsandbytes, sparse
    /// compressed-tensors.
    private static let names: Set<Substring> = [
        "q_weight", "q_invperm", "q_perm", "q_groups", "trellis", "suh", "svh", "W_q", "codes", "codebooks", "centroids", "indices", "Qidxs", "B",
        "quant_map", "nested_quant_map", "absmax", "nested_absmax", "SCB", "bitmask", "compressed", "row_offsets", "meta", "Wq", "packed_weight",
        "weight_indices", "quantized",
        // What the values beside it must be multiplied, added or turned with.
        "pre_quant_scale", "smooth_factor", "smooth_scale", "channel_scale", "SU", "SV", "had_K", "quant_bias", "weight_offset",
    ]
    /// Whole numbers that are no codes: tables and masks of model code.
    private static let tables: Set<Substring> = [
        "masked_bias", "tid2eid", "position_ids", "relative_position_index", "token_type_ids", "num_batches_tracked",
    ]

    init?(_ tensor: StoredTensor, leaf: Substring) {
        let count = Shape.count(tensor.shape) ?? 0
        if LayoutRegistry.codeLeaves.contains(String(leaf)) || tensor.type.isNarrowFloat {
            self = .unpaired
        } else if leaf.hasSuffix("_packed") || leaf.hasSuffix("_blocks") && tensor.type == .u8 || Self.names.contains(leaf) {
            self = .unknown
        } else if Self.isInteger(tensor.type), leaf == "weight", count > 0 {
            self = .unknown
        } else if Self.isSmallInteger(tensor.type), !Self.isTable(tensor, leaf), count > 16 {
            self = .unknown
        } else {
            return nil
        }
    }

    /// Whether whole numbers are no codes: masks of attention, and tables under their names.
    private static func isTable(_ tensor: StoredTensor, _ leaf: Substring) -> Bool {
        if leaf == "bias" || leaf.hasSuffix("mask") { return tensor.shape.count == 4 }
        return tables.contains(leaf) || LayoutRegistry.companionLeaves.contains(String(leaf)) || WeightName.isCompanion(tensor.name)
    }

    private static func isInteger(_ type: ScalarType) -> Bool { isSmallInteger(type) || [.i64, .u64, .bool].contains(type) }

    private static func isSmallInteger(_ type: ScalarType) -> Bool {
        [.i4, .u4, .i8, .u8, .i16, .u16, .i32, .u32, .f8E8M0].contains(type)
    }
}

extension StoredTensor {
    /// ModelOpt's block scales [rows, 1, columns, 1] as the grid that they are.
    fileprivate var squeezed: StoredTensor {
        guard shape.count == 4, shape[1] == 1, shape[3] == 1, WeightName.leaf(name).hasPrefix("weight_scale") else { return self }
        var squeezed = self
        squeezed.shape = [shape[0], shape[2]]
        return squeezed
    }
}
