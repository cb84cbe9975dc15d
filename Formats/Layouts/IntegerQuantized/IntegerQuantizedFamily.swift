import StrictJSON
import Tensors

/// `X.weight` in I8 with a scale for each row (`weight_scale`) or for each block (`weight_scale_inv`).
package enum IntegerQuantizedFamily: LayoutFamily {
    package static let targets = [
        LayoutTarget("w8a8-int8", IntegerQuantizedLayout(), peers: .init(encoder: "compressed-tensors 0.19", readers: "compressed-tensors 0.19")),
        LayoutTarget("int8-block", BlockScaledIntegerLayout(), peers: .init(encoder: "FP8 blocks' formula with 127")),
    ]

    package static let companionLeaves: Set<String> = ["weight_scale", "weight_scale_inv"]

    /// Only a configuration can say that a byte holds one code: two of four bits, and E2M1, have the same type and shapes.
    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let config, let weight = module["weight"], weight.type == .i8, weight.shape.count == 2 else { return nil }
        let shape = MatrixShape(weight.shape)
        guard ["blockwise_int8", "w8a8_int8", "compressed-tensors"].contains(config.method) else { return nil }
        // What the codes must be shifted or ordered by, which is not done here.
        if let other = ["weight_zero_point", "weight_zp", "zero_point", "weight_g_idx"].lazy.compactMap({ module[$0] }).first {
            throw LayoutFault(weight.name, "has \(other.name) beside it, and INT8 codes with zero points or an order of columns are not read")
        }
        switch config.method {
        case "blockwise_int8":
            guard let scale = module["weight_scale_inv"], [.f32, .bf16, .f16].contains(scale.type), let block = config.block else { return nil }
            return RecognisedWeight(BlockScaledIntegerLayout(blockRows: block[0], blockColumns: block[1], scaleType: scale.type), shape)
        case "w8a8_int8", "compressed-tensors":
            guard let scale = module["weight_scale"], [.f32, .bf16, .f16].contains(scale.type) else { return nil }
            return recognise(shape, scale, described: config.method == "w8a8_int8" ? nil : config.groups)
        default: return nil
        }
    }

    /// - Parameter described: compressed-tensors' groups, one of which must have such a scale; nil where the method has rows only.
    private static func recognise(_ shape: MatrixShape, _ scale: StoredTensor, described: [QuantizationConfig.Arguments]?) -> RecognisedWeight? {
        let said = described?.filter { !$0.isFloat && $0.bits == 8 && $0.symmetric } ?? []
        func isSaid(_ strategy: String) -> Bool { described == nil ? strategy == "channel" : said.contains { $0.strategy == strategy } }
        if isSaid("channel"), scale.shape == [shape.rows, 1] || scale.shape == [shape.rows] {
            return RecognisedWeight(IntegerQuantizedLayout(scaleType: scale.type, scaleShape: scale.shape), shape)
        }
        if isSaid("tensor"), scale.shape == [1] || scale.shape.isEmpty {
            return RecognisedWeight(IntegerQuantizedLayout(scaleType: scale.type, scaleShape: scale.shape, isWhole: true), shape)
        }
        for case (let size?) in said.filter({ $0.strategy == "group" }).map(\.groupSize) where shape.columns % size == 0 {
            guard scale.shape == [shape.rows, shape.columns / size] else { continue }
            return RecognisedWeight(IntegerQuantizedLayout(scaleType: scale.type, groupSize: size), shape)
        }
        return nil
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        if let layout = layout as? BlockScaledIntegerLayout {
            return .uniform(
                UniformMethod(
                    [
                        "quant_method": .string("blockwise_int8"), "activation_scheme": .string("dynamic"),
                        "weight_block_size": .array([.int(layout.blockRows), .int(layout.blockColumns)]),
                    ], exemptions: "ignored_layers"))
        }
        guard let layout = layout as? IntegerQuantizedLayout else { return nil }
        return .compressedTensors(
            format: "int-quantized",
            weights: CompressedTensorsConfig.arguments(
                bits: 8, type: "int", strategy: layout.isWhole ? "tensor" : layout.groupSize == nil ? "channel" : "group",
                groupSize: layout.groupSize),
            activations: CompressedTensorsConfig.arguments(bits: 8, type: "int", strategy: "token", dynamic: true))
    }
}
