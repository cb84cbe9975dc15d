import Tensors

/// BF16, F16 and F32 weights. Recognition is the checkpoint's fallback: a floating tensor by itself is dense.
public enum DenseFamily: LayoutFamily {
    public static let targets = [
        LayoutTarget("bf16", DenseLayout(.bf16), peers: .init(encoder: "PyTorch 2.13", readers: "transformers 5.17")),
        LayoutTarget("f16", DenseLayout(.f16), peers: .init(encoder: "", readers: "safetensors")),
        LayoutTarget("f32", DenseLayout(.f32), peers: .init(encoder: "", readers: "safetensors")),
    ]

    public static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) -> RecognisedWeight? { nil }

    public static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? { nil }
}
