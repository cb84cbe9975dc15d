import StrictJSON
import Tensors

/// E2M1 codes with an E8M0 exponent for 32 columns, under five names.
package enum MXFP4Family: LayoutFamily {
    package static let targets = [
        LayoutTarget("mxfp4", MXFP4Layout(), peers: CompressedTensorsConfig.peers),
        LayoutTarget(
            "mxfp4-quark", MXFP4Layout(naming: .quark), isListed: false, peers: .init(encoder: "exponents of compressed-tensors")),
        LayoutTarget(
            "mxfp4-blocks", MXFP4Layout(naming: .blocks), besideExperts: "bf16", isListed: false,
            peers: .init(encoder: "exponents of compressed-tensors", readers: "transformers 5.24")),
        LayoutTarget(
            "mlx-mxfp4", MXFP4Layout(naming: .mlx), dialect: .mlx, peers: .init(encoder: "mlx-lm 0.32", readers: "MLX 0.32, mlx-lm 0.32")),
    ]

    package static let companionLeaves: Set<String> = ["weight_packed", "weight_scale", MXFP4Layout.blockLeaves[0], MXFP4Layout.blockLeaves[1]]
    package static let codeLeaves: Set<String> = ["weight_packed", MXFP4Layout.blockLeaves[0]]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        if let found = try stackedExperts(module) { return found }
        if let blocks = module[MXFP4Layout.blockLeaves[0]], blocks.type == .u8, blocks.shape.count == 3, blocks.shape[2] == 16,
            let scale = module[MXFP4Layout.blockLeaves[1]]
        {
            guard [.u8, .f8E8M0].contains(scale.type), scale.shape == Array(blocks.shape.dropLast()) else {
                throw LayoutFault(scale.name, "is \(scale.summary) beside \(blocks.summary); expected one exponent for 16 bytes")
            }
            return RecognisedWeight(
                MXFP4Layout(naming: .blocks, scaleType: scale.type), MatrixShape(rows: blocks.shape[0], columns: blocks.shape[1] * 32))
        }
        if let packed = module["weight_packed"], packed.type == .u8, module["weight_global_scale"] == nil, let scale = module["weight_scale"] {
            return try matrix(packed, scale, codesPerElement: 2, .compressedTensors)
        }
        // Stacks are taken apart beforehand, or carried as they are.
        if let weight = module["weight"], weight.type == .u32, weight.shape.count == 2, let scale = module["scales"],
            [.u8, .f8E8M0].contains(scale.type),
            module["biases"] == nil
        {
            return try matrix(weight, scale, codesPerElement: 8, .mlx)
        }
        if config?.method == "quark", let weight = module["weight"], weight.type == .u8, let scale = module["weight_scale"], isFP4(config) {
            return try matrix(weight, scale, codesPerElement: 2, .quark)
        }
        // An exponent for 16 bytes: MXINT8 would have one for 32.
        if let weight = module["weight"], weight.type == .i8, let scale = module["scale"], scale.type == .f8E8M0 {
            return try matrix(weight, scale, codesPerElement: 2, .deepSeekV4)
        }
        return nil
    }

    /// Quark's configuration of weights alone, with what vLLM 0.33 insists on (layers/quantization/quark/quark.py).
    private static let quark: JSONObject = [
        "quant_method": "quark", "export": ["kv_cache_group": [], "pack_method": "reorder"], "layer_quant_config": [:],
        "layer_type_quant_config": [:],
        "global_quant_config": [
            "weight": ["dtype": "fp4", "qscheme": "per_group", "group_size": 32, "ch_axis": -1, "scale_format": "e8m0", "is_dynamic": false],
            "input_tensors": .null, "output_tensors": .null, "bias": .null,
        ],
    ]

    /// Whether Quark's configuration says that weights are FP4 with an exponent for 32 columns.
    private static func isFP4(_ config: QuantizationConfig?) -> Bool {
        let weight = config?.json["global_quant_config"]?["weight"]
        return weight?["dtype"]?.string == "fp4" && weight?["group_size"]?.int == 32 && weight?["scale_format"]?.string == "e8m0"
    }

    private static func matrix(
        _ codes: StoredTensor, _ scale: StoredTensor, codesPerElement: Int, _ naming: MXFP4Layout.Naming
    ) throws -> RecognisedWeight {
        guard [.u8, .f8E8M0].contains(scale.type), codes.shape.count == 2, scale.shape.count == 2,
            scale.shape == [codes.shape[0], codes.shape[1] * codesPerElement / 32], codes.shape[1] * codesPerElement % 32 == 0
        else { throw LayoutFault(scale.name, "is \(scale.summary) beside \(codes.summary); MXFP4 has one exponent (U8) for 32 columns") }
        return RecognisedWeight(
            MXFP4Layout(naming: naming, scaleType: scale.type), MatrixShape(rows: codes.shape[0], columns: codes.shape[1] * codesPerElement))
    }

    /// gpt-oss: `X_blocks` [experts, out, in/32, 16] with `X_scales`.
    private static func stackedExperts(_ module: ModuleTensors) throws -> RecognisedWeight? {
        guard let found = module.tensors.first(where: { $0.leaf.hasSuffix("_blocks") }) else { return nil }
        let leaf = String(found.leaf.dropLast("_blocks".count))
        let blocks = found.tensor
        guard let scale = module[leaf + "_scales"] else {
            throw LayoutFault(blocks.name, "has no \(module.module).\(leaf)_scales beside it in any shard")
        }
        guard blocks.type == .u8, [.u8, .f8E8M0].contains(scale.type), blocks.shape.count == 4, blocks.shape[3] == 16,
            scale.shape == Array(blocks.shape.dropLast())
        else { throw LayoutFault(scale.name, "is \(scale.summary) beside \(blocks.summary); expected one exponent for 16 bytes") }
        let dimensions = [blocks.shape[0], blocks.shape[1], blocks.shape[2] * 32]
        return RecognisedWeight(
            MXFP4Layout(naming: .gptOSS(leaf: leaf, experts: blocks.shape[0]), scaleType: scale.type), MatrixShape(dimensions),
            dimensions: dimensions,
            leaf: leaf)
    }

    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        if let paired = source as? PairedRowsLayout, paired.gate is MXFP4Layout, paired.up is MXFP4Layout, target is MXFP4Layout {
            return .possible([RowPairing(from: paired, target: target)])
        }
        guard let from = source as? MXFP4Layout else { return .unrelated }
        if let to = target as? MXFP4Layout { return from == to ? .unrelated : .possible([Renaming(source: from, target: to)]) }
        guard let to = target as? BlockScaledFP8Layout, to.blockColumns % 32 == 0 else { return .unrelated }
        return .possible([MXFP4Widening(from: from, to: to)])
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? MXFP4Layout else { return nil }
        switch layout.naming {
        case .compressedTensors:
            return .compressedTensors(
                format: "mxfp4-pack-quantized",
                weights: CompressedTensorsConfig.arguments(bits: 4, type: "float", strategy: "group", groupSize: 32, scaleType: "torch.uint8"),
                activations: nil)
        case .mlx: return .mlx(["group_size": .int(32), "bits": .int(4), "mode": .string("mxfp4")])
        case .quark: return .uniform(UniformMethod(quark, exemptions: "exclude"))
        case .deepSeekV4: return .uniform(UniformMethod(["quant_method": .string("fp8"), "expert_dtype": .string("fp4")]))
        case .gptOSS, .blocks: return .uniform(UniformMethod(["quant_method": .string("mxfp4")], exemptions: "modules_to_not_convert"))
        }
    }
}
