import Tensors

/// `X.weight` in E4M3 with `X.weight_scale` of one value a row, or one for the tensor.
package enum FloatQuantizedFamily: LayoutFamily {
    package static let targets = [LayoutTarget("fp8-channel", FloatQuantizedLayout(), peers: CompressedTensorsConfig.peers)]

    package static let companionLeaves: Set<String> = ["weight_scale", "qscale_weight"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["weight"], weight.type == .f8E4M3, weight.shape.count == 2 else { return nil }
        let shape = MatrixShape(weight.shape)
        // Mistral gives a tensor's one scale the name of DeepSeek's grids (and says that there are no blocks).
        if let scale = module["weight_scale_inv"], scale.type.isScale, isOne(scale.shape, shape, config) {
            return RecognisedWeight(
                FloatQuantizedLayout(strategy: .tensor, scaleType: scale.type, scaleShape: scale.shape, scaleLeaf: "weight_scale_inv"), shape)
        }
        guard let scale = module["weight_scale"], scale.type.isScale, scale.type != .f8E8M0 else { return nil }
        let strategies = config?.groups.filter { $0.isFloat && $0.bits == 8 }.map(\.strategy) ?? []
        let blockwise = !strategies.isEmpty && strategies.allSatisfy { $0 == "block" }
        if scale.shape == [shape.rows, 1] || scale.shape == [shape.rows], !blockwise, !(strategies == ["tensor"]) {
            return RecognisedWeight(FloatQuantizedLayout(strategy: .channel, scaleType: scale.type, scaleShape: scale.shape), shape)
        }
        if scale.shape == [1] || scale.shape.isEmpty {
            return RecognisedWeight(FloatQuantizedLayout(strategy: .tensor, scaleType: scale.type, scaleShape: scale.shape), shape)
        }
        return nil
    }

    /// Whether a scale is one for the whole tensor: of one value that is not the only block of a grid.
    private static func isOne(_ scale: [Int], _ shape: MatrixShape, _ config: QuantizationConfig?) -> Bool {
        // A configuration that promises blocks means a grid, of one block perhaps.
        guard config?.block == nil, Shape.count(scale) == 1, scale.count <= 2 else { return false }
        return scale.count < 2 || shape.rows > 128 || shape.columns > 128
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? FloatQuantizedLayout else { return nil }
        return .compressedTensors(
            format: "float-quantized",
            weights: CompressedTensorsConfig.arguments(bits: 8, type: "float", strategy: layout.strategy == .channel ? "channel" : "tensor"),
            activations: CompressedTensorsConfig.arguments(bits: 8, type: "float", strategy: "token", dynamic: true))
    }
}
