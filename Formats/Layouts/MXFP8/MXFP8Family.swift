import StrictJSON
import Tensors

/// `X.weight` in E4M3 with a byte of exponent for every 32 columns, `X.weight_scale` or `X.weight_scale_inv`.
package enum MXFP8Family: LayoutFamily {
    package static let targets = [
        LayoutTarget("mxfp8", MXFP8Layout(), peers: .init(encoder: "compressed-tensors 0.19", readers: "compressed-tensors 0.19"))
    ]

    package static let companionLeaves: Set<String> = ["weight_scale", "weight_scale_inv"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["weight"], weight.type == .f8E4M3, weight.shape.count == 2 else { return nil }
        let scales = ["weight_scale", "weight_scale_inv"].filter { module[$0]?.type == .u8 }
        guard let leaf = scales.first, let scale = module[leaf] else { return nil }
        let shape = MatrixShape(weight.shape)
        guard scales.count == 1, scale.shape == [shape.rows, shape.columns / 32], shape.columns % 32 == 0 else {
            throw LayoutFault(scale.name, "is \(scale.summary) beside \(weight.summary); MXFP8 has one exponent for 32 columns")
        }
        if let contradiction = config.flatMap(contradiction) {
            throw LayoutFault(scale.name, "holds exponents for 32 columns, and \(contradiction)")
        }
        if let order = module["weight_g_idx"] {
            throw LayoutFault(weight.name, "has \(order.name) beside it, and MXFP8 codes have no order of columns")
        }
        return RecognisedWeight(MXFP8Layout(scaleLeaf: leaf), shape)
    }

    /// What a description says that is not MXFP8; nil if it says nothing else.
    private static func contradiction(_ config: QuantizationConfig) -> String? {
        if let block = config.json["weight_block_size"], block != .null, block != .array([.int(1), .int(32)]) {
            return "weight_block_size is \(block.text(pretty: false))"
        }
        switch config.method {
        case "", "mxfp8", "fp8", "modelopt_mxfp8", "modelopt_mixed": return nil
        case "modelopt":
            let algorithm = config.json["quant_algo"]?.string ?? ""
            return algorithm == "MXFP8" || algorithm == "MIXED_PRECISION" || algorithm.isEmpty ? nil : "quant_algo is \(algorithm)"
        case "compressed-tensors":
            let isSaid = config.groups.contains { $0.isFloat && $0.bits == 8 && $0.strategy == "group" && $0.groupSize == 32 }
            return isSaid ? nil : "no config group has 8-bit floats in groups of 32"
        default: return "quant_method is \(config.method)"
        }
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard layout is MXFP8Layout else { return nil }
        func arguments(dynamic: Bool) -> JSONObject {
            var arguments = CompressedTensorsConfig.arguments(
                bits: 8, type: "float", strategy: "group", groupSize: 32, dynamic: dynamic, scaleType: "torch.uint8")
            arguments["zp_dtype"] = .string("torch.uint8")
            return arguments
        }
        return .compressedTensors(format: "mxfp8-quantized", weights: arguments(dynamic: false), activations: arguments(dynamic: true))
    }
}
