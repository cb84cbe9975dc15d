import Tensors

/// `X.weight` in E4M3 with `X.weight_scale` of one value a row, or one for the tensor.
public enum FloatQuantizedFamily: LayoutFamily {
    public static let targets = [LayoutTarget("fp8-channel", FloatQuantizedLayout(), peers: CompressedTensorsConfig.peers)]

    public static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["weight"], weight.type == .f8E4M3, weight.shape.count == 2, let scale = module["weight_scale"],
            scale.type.isScale, scale.type != .f8E8M0
        else { return nil }
        let shape = MatrixShape(weight.shape)
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

    public static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? FloatQuantizedLayout else { return nil }
        return .compressedTensors(
            format: "float-quantized",
            weights: CompressedTensorsConfig.arguments(bits: 8, type: "float", strategy: layout.strategy == .channel ? "channel" : "tensor"),
            activations: CompressedTensorsConfig.arguments(bits: 8, type: "float", strategy: "token", dynamic: true))
    }
}
