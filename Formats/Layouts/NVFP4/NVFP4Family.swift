import StrictJSON
import Tensors

/// E2M1 codes with an E4M3 scale for 16 columns and one F32 scale for the tensor.
package enum NVFP4Family: LayoutFamily {
    package static let targets = [
        LayoutTarget("nvfp4", NVFP4Layout(), peers: .init(encoder: "llm-compressor 0.14", readers: "compressed-tensors 0.19")),
        LayoutTarget(
            "nvfp4-modelopt", NVFP4Layout(naming: .modelOpt),
            peers: .init(encoder: "ModelOpt 0.47", readers: "ModelOpt 0.47")),
    ]

    package static let companionLeaves: Set<String> = ["weight_packed", "weight_scale", "weight_global_scale", "weight_scale_2"]
    package static let codeLeaves: Set<String> = ["weight_packed"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        let isModelOpt = module["weight_scale_2"] != nil
        guard let codes = module[isModelOpt ? "weight" : "weight_packed"], codes.type == .u8, codes.shape.count == 2,
            let global = module[isModelOpt ? "weight_scale_2" : "weight_global_scale"]
        else { return nil }
        guard let scale = module["weight_scale"] else {
            throw LayoutFault(codes.name, "has no \(module.module).weight_scale beside it in any shard; without it the values are meaningless")
        }
        let shape = MatrixShape(rows: codes.shape[0], columns: codes.shape[1] * 2)
        guard scale.type == .f8E4M3, scale.shape == [shape.rows, shape.columns / 16], shape.columns % 16 == 0 else {
            throw LayoutFault(scale.name, "is \(scale.summary) beside \(codes.summary); NVFP4 has one F8_E4M3 scale for 16 columns")
        }
        guard global.type == .f32, global.shape == [1] || global.shape.isEmpty else {
            throw LayoutFault(global.name, "is \(global.summary); expected one F32")
        }
        return RecognisedWeight(NVFP4Layout(naming: isModelOpt ? .modelOpt : .compressedTensors, globalShape: global.shape), shape)
    }

    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        guard let from = source as? NVFP4Layout, let to = target as? NVFP4Layout else { return .unrelated }
        return NVFP4Repacking.offer(from: from, to: to)
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? NVFP4Layout else { return nil }
        guard layout.naming == .modelOpt else {
            return .compressedTensors(
                format: "nvfp4-pack-quantized",
                weights: CompressedTensorsConfig.arguments(
                    bits: 4, type: "float", strategy: "tensor_group", groupSize: 16, scaleType: "torch.float8_e4m3fn"), activations: nil)
        }
        // Recast writes no input scales, and without them activations stay unquantized.
        let json: JSONObject = [
            "quant_algo": .string("W4A16_NVFP4"), "group_size": .int(16), "kv_cache_quant_algo": .null,
            "quant_method": .string("modelopt"), "producer": .object(["name": .string("recast")]),
        ]
        return .uniform(UniformMethod(json, exemptions: "ignore", sideFile: "hf_quant_config.json", leavesPrediction: true))
    }
}
