import StrictJSON
import Tensors

/// `X.qweight`, `X.qzeros`, `X.scales` and `X.g_idx` with the codes of one output channel in a word.
package enum GPTQFamily: LayoutFamily {
    package static let targets: [LayoutTarget] = {
        let peers = LayoutTarget.Peers(encoder: "GPTQModel 7.7", readers: "GPTQModel 7.7")
        var targets = [LayoutTarget("gptq", GPTQLayout(), peers: peers)]
        // v1 cannot say "zero point 0", so asymmetric codes are written as v2.
        for bits in [4, 2, 3, 8] {
            for group in [128, 32, 64] {
                for layout in [
                    GPTQLayout(bits: bits, groupSize: group), GPTQLayout(bits: bits, groupSize: group, symmetric: false, version: 2),
                    GPTQLayout(bits: bits, groupSize: group, version: 2),
                ] where layout.name != "gptq" {
                    targets.append(
                        LayoutTarget(
                            layout.name, layout,
                            isListed: group == 128 && layout.name != "gptq-v2" && (bits == 4 || layout.symmetric && layout.version == 1),
                            peers: peers))
                }
            }
        }
        return targets
    }()

    package static let companionLeaves: Set<String> = ["qweight", "qzeros", "g_idx"]
    package static let codeLeaves: Set<String> = ["qweight", "qzeros"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["qweight"], module["g_idx"] != nil || config?.method == "gptq" else { return nil }
        guard config?.method != "awq" else {
            throw LayoutFault(weight.name, "has a g_idx beside it, which AWQ does not know, though quantization_config says awq")
        }
        for leaf in ["qzeros", "scales"] where module[leaf] == nil {
            throw LayoutFault(weight.name, "has no \(module.module).\(leaf) beside it in any shard")
        }
        guard let zeros = module["qzeros"], let scales = module["scales"] else { return nil }
        guard weight.type == .i32, weight.shape.count == 2, zeros.shape.count == 2, scales.shape.count == 2,
            [.f16, .bf16, .f32].contains(scales.type)
        else { throw LayoutFault(weight.name, "is \(weight.summary) with scales \(scales.summary); expected matrices of I32 and F16") }
        let columns = try columnCount(module, weight, config)
        let rows = weight.shape[1]
        let bits = weight.shape[0] * 32 / columns
        guard [2, 3, 4, 8].contains(bits), scales.shape[0] > 0, scales.shape[0] <= columns else {
            throw LayoutFault(weight.name, "is \(weight.summary) for \(columns) columns: \(bits) bits a code, which GPTQ does not have")
        }
        if let asked = config?.json["bits"]?.int, asked != bits {
            throw LayoutFault(weight.name, "holds codes of \(bits) bits, but quantization_config says \(asked)")
        }
        if let asked = config?.json["group_size"]?.int, asked > 0, ceilingDivide(columns, asked) != scales.shape[0] {
            throw LayoutFault(scales.name, "has \(scales.shape[0]) groups for \(columns) columns, but quantization_config says groups of \(asked)")
        }
        // What the configuration says, where it agrees; a last group may be short.
        let asked = config?.json["group_size"]?.int ?? 0
        let size = asked > 0 && ceilingDivide(columns, asked) == scales.shape[0] ? asked : ceilingDivide(columns, scales.shape[0])
        let isOrdered = try module["g_idx"].map { try Self.isOrdered(module, $0, size, groups: scales.shape[0]) } ?? false
        if isOrdered, config?.json["desc_act"]?.bool == false {
            throw LayoutFault(
                module["g_idx"]?.name ?? weight.name,
                "puts columns into other groups than their place says, though desc_act is false in quantization_config")
        }
        let version = config?.json["checkpoint_format"]?.string == "gptq_v2" ? 2 : 1
        return RecognisedWeight(
            GPTQLayout(
                bits: bits, groupSize: scales.shape[0] == 1 && asked != size ? nil : size, symmetric: config?.json["sym"]?.bool ?? false,
                version: version, scaleType: scales.type, isOrdered: isOrdered, hasOrder: module["g_idx"] != nil),
            MatrixShape(rows: rows, columns: columns))
    }

    /// The number of columns: as many as `g_idx` has entries. Where that says nothing (`desc_act` false) newer tools leave it out, and the
    /// configuration's width tells.
    private static func columnCount(_ module: ModuleTensors, _ weight: StoredTensor, _ config: QuantizationConfig?) throws -> Int {
        if let order = module["g_idx"] {
            guard order.type == .i32, order.shape.count == 1, order.shape[0] > 0, order.shape[0] <= 1 << 24,
                weight.shape[0] * 32 % order.shape[0] == 0
            else { throw LayoutFault(weight.name, "is \(weight.summary) with g_idx \(order.summary); expected matrices of I32 and F16") }
            return order.shape[0]
        }
        guard config?.json["desc_act"]?.bool != true else {
            throw LayoutFault(weight.name, "has no \(module.module).g_idx beside it in any shard, and desc_act says that its columns are reordered")
        }
        guard let bits = config?.json["bits"]?.int, [2, 3, 4, 8].contains(bits), weight.shape[0] > 0, weight.shape[0] * 32 % bits == 0 else {
            throw LayoutFault(weight.name, "has no \(module.module).g_idx beside it in any shard, and quantization_config gives no bits")
        }
        return weight.shape[0] * 32 / bits
    }

    /// Whether `g_idx` is anything but column / size.
    private static func isOrdered(_ module: ModuleTensors, _ order: StoredTensor, _ size: Int, groups: Int) throws -> Bool {
        let bytes = try module.read(order)
        let indices = bytes.withUnsafeBytes { raw in
            (0..<bytes.count / 4).map { Int(Int32(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 4, as: Int32.self))) }
        }
        if let bad = indices.first(where: { !(0..<groups).contains($0) }) {
            throw LayoutFault(order.name, "names the group \(bad), but there are \(groups)")
        }
        return indices.enumerated().contains { $0.element != $0.offset / size }
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? GPTQLayout else { return nil }
        let json: JSONObject = [
            "bits": .int(layout.bits), "checkpoint_format": .string(layout.version == 2 ? "gptq_v2" : "gptq"), "desc_act": .bool(layout.isOrdered),
            "group_size": .int(layout.groupSize ?? -1), "lm_head": .bool(false), "pack_dtype": .string("int32"), "quant_method": .string("gptq"),
            "sym": .bool(layout.symmetric),
        ]
        return .uniform(UniformMethod(json, hasDynamicExemptions: true))
    }
}
