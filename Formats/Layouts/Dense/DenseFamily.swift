import Tensors

/// BF16, F16 and F32 weights. Recognition is the checkpoint's fallback: a floating tensor by itself is dense.
package enum DenseFamily: LayoutFamily {
    package static let targets = [
        LayoutTarget("bf16", DenseLayout(.bf16), peers: .init(encoder: "PyTorch 2.13", readers: "transformers 5.24")),
        LayoutTarget("f16", DenseLayout(.f16), peers: .init(encoder: "", readers: "safetensors")),
        LayoutTarget("f32", DenseLayout(.f32), peers: .init(encoder: "", readers: "safetensors")),
    ]

    package static let companionLeaves: Set<String> = [TransposedDenseLayout.leaf]
    package static let codeLeaves: Set<String> = [TransposedDenseLayout.leaf]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) -> RecognisedWeight? {
        guard let tensor = module[TransposedDenseLayout.leaf], tensor.type.isDenseFloat, tensor.shape.count == 2 else { return nil }
        return RecognisedWeight(TransposedDenseLayout(tensor.type), MatrixShape(rows: tensor.shape[1], columns: tensor.shape[0]))
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? { nil }
}
