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
            if WeightName.leaf(String(name)) == "embed_q" || WeightName.leaf(String(name)) == "unembed_out",
                let weight = try latentProjection(String(WeightName.module(String(name))), modules, tensors, &claimed)
            {
                weights.append(weight)
                continue
            }
            let members = modules[name] ?? []
            if members.count > 1 || LayoutRegistry.companionLeaves.contains(String(WeightName.leaf(tensors[index].name))) {
                if let weight = try recognise(String(name), members.filter { !claimed[$0] }, tensors, &claimed) {
                    weights.append(weight)
                    if claimed[index] { continue }
                }
            }
            claimed[index] = true
            addPlain(tensors[index])
        }
        if !unpaired.isEmpty { findLookalikes(tensors) }
    }

    /// MLX's split key and value projection, if both halves are there.
    private func latentProjection(
        _ parent: String, _ modules: [Substring: [Int]], _ tensors: [StoredTensor], _ claimed: inout [Bool]
    ) throws -> Weight? {
        let members = ["embed_q", "unembed_out"].flatMap { modules[Substring(parent + "." + $0)] ?? [] }
        do {
            let weight = try MLXDialect.latentProjection(
                parent, members.map { tensors[$0] }, quantization: quantization,
                read: { [files] in try files[$0.file].read($0.byteCount, at: $0.offset) })
            if weight != nil { for index in members { claimed[index] = true } }
            return weight
        } catch let fault as LayoutFault {
            throw CheckpointFailure.contradiction(tensor: fault.tensor, file: fileNames[tensors[members[0]].file], reason: fault.reason)
        }
    }

    private func recognise(_ name: String, _ members: [Int], _ tensors: [StoredTensor], _ claimed: inout [Bool]) throws -> Weight? {
        let module = ModuleTensors(
            module: name, tensors: members.map { (String(WeightName.leaf(tensors[$0].name)), tensors[$0]) },
            read: { try files[$0.file].read($0.byteCount, at: $0.offset) })
        do {
            for family in LayoutRegistry.families {
                guard let found = try family.recognise(module, config: quantization) else { continue }
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
                for index in members where stored.contains(where: { $0.name == tensors[index].name }) { claimed[index] = true }
                return Weight(
                    name: name.isEmpty ? found.leaf : name + "." + found.leaf, dimensions: found.dimensions, layout: found.layout, stored: stored)
            }
        } catch let fault as LayoutFault {
            let place = module.tensors.first { $0.tensor.name == fault.tensor }?.tensor.file ?? tensors[members[0]].file
            throw CheckpointFailure.contradiction(tensor: fault.tensor, file: fileNames[place], reason: fault.reason)
        }
        return nil
    }

    /// A tensor that no family claimed: a dense weight, bytes to carry, or half of a broken pair.
    private mutating func addPlain(_ tensor: StoredTensor) {
        let leaf = String(WeightName.leaf(tensor.name))
        let isCompanion = LayoutRegistry.companionLeaves.contains(leaf) && leaf != "weight_packed"
        let isCodes =
            tensor.type.isNarrowFloat || leaf == "weight_packed" || leaf == "qweight"
            || leaf == "weight" && tensor.shape.count >= 2 && [.i8, .u8, .i4, .u4, .i32, .u32].contains(tensor.type)
        if isCompanion || isCodes {
            unpaired.append(
                UnpairedTensor(
                    name: tensor.name, file: fileNames[tensor.file], summary: tensor.summary, isCompanion: isCompanion && !isCodes, lookalikes: []))
        }
        let isDense = tensor.type.isDenseFloat && !isCompanion
        weights.append(
            Weight(name: tensor.name, dimensions: tensor.shape, layout: isDense ? DenseLayout(tensor.type) : nil, stored: [tensor]))
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

    /// Refuses a checkpoint in which a quantized tensor has lost its scales, or a scale its weight.
    public func requirePairedScales() throws {
        let codes = unpaired.filter { !$0.isCompanion }
        if !unpaired.isEmpty { throw CheckpointFailure.unpaired(codes.isEmpty ? unpaired : codes) }
    }
}
