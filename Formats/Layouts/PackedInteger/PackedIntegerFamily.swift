import Tensors

/// `X.weight_packed` with `X.weight_scale`, `X.weight_shape` and, when asymmetric, `X.weight_zero_point`.
package enum PackedIntegerFamily: LayoutFamily {
    package static let targets: [LayoutTarget] = {
        let listed = [
            PackedIntegerLayout(bits: 4, groupSize: 128), PackedIntegerLayout(bits: 4, groupSize: 32),
            PackedIntegerLayout(bits: 4, groupSize: 128, symmetric: false), PackedIntegerLayout(bits: 8, groupSize: nil),
        ]
        var others: [PackedIntegerLayout] = []
        for bits in 2...8 {
            for size in [128, 64, 32] {
                for symmetric in [true, false] {
                    let layout = PackedIntegerLayout(bits: bits, groupSize: size, symmetric: symmetric)
                    if !listed.contains(layout) { others.append(layout) }
                }
            }
        }
        return (listed + others).map { layout in
            // transformers 5.24 stacks experts without their zero points.
            let peers = layout.symmetric ? CompressedTensorsConfig.peers : .init(encoder: "llm-compressor 0.14", readers: "compressed-tensors 0.19")
            return LayoutTarget(layout.name, layout, isListed: listed.contains(layout), peers: peers)
        }
    }()

    package static let companionLeaves: Set<String> = ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"]
    package static let codeLeaves: Set<String> = ["weight_packed"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let packed = module["weight_packed"], packed.type == .i32 else { return nil }
        if let order = module["weight_g_idx"], try !saysNothing(order, module, groupCount: module["weight_scale"]?.shape.last ?? 1) {
            throw LayoutFault(
                packed.name, "is stored with activation ordering (weight_g_idx), which compressed-tensors checkpoints cannot be read with")
        }
        guard let scale = module["weight_scale"] else {
            throw LayoutFault(packed.name, "has no \(module.module).weight_scale beside it in any shard; without it the values are meaningless")
        }
        guard packed.shape.count == 2, scale.shape.count == 2, [.bf16, .f16, .f32].contains(scale.type) else {
            throw LayoutFault(scale.name, "is \(scale.summary) beside \(packed.summary); expected a matrix of BF16, F16 or F32 scales")
        }
        let symmetric = module["weight_zero_point"] == nil
        let candidates = config?.groups.filter { !$0.isFloat } ?? []
        let columns = try columnCount(module, packed)
        let shape = MatrixShape(rows: packed.shape[0], columns: columns)

        func fits(_ layout: PackedIntegerLayout) -> Bool {
            let parts = layout.parts(of: shape)
            return parts[0].shape == packed.shape && parts[1].shape == scale.shape && layout.obstacle(to: shape) == nil
        }
        for group in candidates where (1...8).contains(group.bits) && group.symmetric == symmetric {
            let layout = PackedIntegerLayout(
                bits: group.bits, groupSize: group.strategy == "group" ? group.groupSize : nil, symmetric: symmetric, scaleType: scale.type)
            if fits(layout) { return RecognisedWeight(layout, shape) }
        }
        // No configuration, or one that does not describe this weight: the stored shapes decide.
        let groupSize = scale.shape[1] > 1 && columns % scale.shape[1] == 0 ? columns / scale.shape[1] : nil
        let widths = [4, 8, 2, 3, 5, 6, 7, 1].filter {
            fits(PackedIntegerLayout(bits: $0, groupSize: groupSize, symmetric: symmetric, scaleType: scale.type))
        }
        guard let bits = widths.first, candidates.isEmpty else {
            throw LayoutFault(
                packed.name,
                "is \(packed.summary) with scales \(scale.summary) for \(columns) columns, which "
                    + (candidates.isEmpty ? "no integer width explains" : "the groups of quantization_config do not explain"))
        }
        return RecognisedWeight(PackedIntegerLayout(bits: bits, groupSize: groupSize, symmetric: symmetric, scaleType: scale.type), shape)
    }

    /// Whether an order of columns is none: all entries -1, or each column in the group where it stands.
    private static func saysNothing(_ order: StoredTensor, _ module: ModuleTensors, groupCount: Int) throws -> Bool {
        guard order.type == .i32, order.shape.count == 1, groupCount > 0, order.shape[0] % groupCount == 0, order.shape[0] <= 1 << 24 else {
            return false
        }
        let size = order.shape[0] / groupCount
        let bytes = try module.read(order)
        return bytes.withUnsafeBytes { raw in
            let groups = (0..<bytes.count / 4).map { Int32(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 4, as: Int32.self)) }
            return groups.allSatisfy { $0 == -1 } || groups.enumerated().allSatisfy { Int($0.element) == $0.offset / size }
        }
    }

    /// The true number of columns, which the padding of the last word hides.
    private static func columnCount(_ module: ModuleTensors, _ packed: StoredTensor) throws -> Int {
        guard let tensor = module["weight_shape"], tensor.type == .i64 || tensor.type == .i32, tensor.shape == [2] else {
            throw LayoutFault(packed.name, "has no usable \(module.module).weight_shape (two integers) beside it in any shard")
        }
        let bytes = try module.read(tensor)
        let width = tensor.byteCount / 2
        let numbers = (0..<2).map { index in
            (0..<width).reduce(UInt64(0)) { $0 | UInt64(bytes[index * width + $1]) << UInt64(8 * $1) }
        }
        guard numbers[0] == packed.shape[0], numbers[1] > 0, numbers[1] <= packed.shape[1] * 32 else {
            throw LayoutFault(tensor.name, "says [\(numbers[0]), \(numbers[1])], which contradicts \(packed.name) \(packed.shape)")
        }
        return Int(numbers[1])
    }

    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        // Of all layouts of integers, whichever folder they are in.
        guard let from = source as? any IntegerCodedLayout, let to = target as? any IntegerCodedLayout else { return .unrelated }
        return IntegerRepacking.offer(from: from, to: to, shape: shape)
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? PackedIntegerLayout else { return nil }
        return .compressedTensors(
            format: "pack-quantized",
            weights: CompressedTensorsConfig.arguments(
                bits: layout.bits, type: "int", strategy: layout.groupSize == nil ? "channel" : "group", groupSize: layout.groupSize,
                symmetric: layout.symmetric),
            activations: nil)
    }
}
