import StrictJSON
import Tensors

/// `X.qweight`, `X.qzeros` and `X.scales` with the codes of eight output channels in a word.
package enum AWQFamily: LayoutFamily {
    package static let targets = [128, 32, 64].map { (group: Int) in
        let layout = AWQLayout(groupSize: group)
        return LayoutTarget(
            layout.name, layout, isListed: group == 128, peers: .init(encoder: "AutoAWQ 0.2.9", readers: "AutoAWQ 0.2.9, GPTQModel 7.7"))
    }

    package static let companionLeaves: Set<String> = ["qweight", "qzeros"]
    package static let codeLeaves: Set<String> = ["qweight", "qzeros"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["qweight"], module["g_idx"] == nil, config?.method != "gptq" else { return nil }
        guard let zeros = module["qzeros"], let scales = module["scales"] else {
            throw LayoutFault(weight.name, "has no \(module.module).\(module["qzeros"] == nil ? "qzeros" : "scales") beside it in any shard")
        }
        guard weight.type == .i32, weight.shape.count == 2, zeros.shape.count == 2, scales.shape.count == 2,
            [.f16, .bf16, .f32].contains(scales.type)
        else { throw LayoutFault(weight.name, "is \(weight.summary) with scales \(scales.summary); expected matrices of I32 and F16") }
        let (columns, groups) = (weight.shape[0], scales.shape[0])
        guard groups > 0, columns > 0, columns % groups == 0, scales.shape[1] == weight.shape[1] * 8 else {
            throw LayoutFault(scales.name, "is \(scales.summary) beside \(weight.summary), which no AWQ group size explains")
        }
        let size = columns / groups
        if let bits = config?.json["bits"]?.int ?? config?.json["w_bit"]?.int, bits != 4 {
            throw LayoutFault(weight.name, "holds codes of 4 bits, but quantization_config says \(bits)")
        }
        if let asked = config?.json["group_size"]?.int ?? config?.json["q_group_size"]?.int, asked > 0, asked != size {
            throw LayoutFault(scales.name, "is \(scales.summary) for \(columns) columns: groups of \(size), but quantization_config says \(asked)")
        }
        if let version = config?.json["version"]?.string?.lowercased(), version != "gemm" {
            throw LayoutFault(weight.name, "is packed as AWQ's GEMM form, but quantization_config says version \(version)")
        }
        return RecognisedWeight(
            AWQLayout(groupSize: groups == 1 && config?.json["group_size"]?.int != size ? nil : size, scaleType: scales.type),
            MatrixShape(rows: scales.shape[1], columns: columns))
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? AWQLayout else { return nil }
        let json: JSONObject = [
            "bits": .int(4), "group_size": .int(layout.groupSize ?? -1), "quant_method": .string("awq"), "version": .string("gemm"),
            "zero_point": .bool(true),
        ]
        return .uniform(UniformMethod(json, exemptions: "modules_to_not_convert"))
    }
}
