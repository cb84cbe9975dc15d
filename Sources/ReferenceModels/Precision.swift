import CKernels
import Tensors

/// The arithmetic of a forward pass.
public enum Precision: String, Sendable, CaseIterable {
    /// Weights dequantized exactly, everything in F32.
    case f32
    /// Rounded to BF16 where transformers rounds in torch.bfloat16.
    case bf16
    /// F32, but the inputs of FP8 linears are quantized per token and 128 channels: DeepSeek's recipe.
    case fp8

    /// Rounds activations that a BF16 model would store.
    func round(_ activations: Activations) {
        if self == .bf16 { ck_round_to_bf16(activations.base, activations.rows * activations.columns) }
    }

    func round(_ values: UnsafeMutablePointer<Float>, _ count: Int) {
        if self == .bf16 { ck_round_to_bf16(values, count) }
    }

    func round(_ value: Float) -> Float { self == .bf16 ? BFloat16(rounding: value).value : value }
}

extension Activations {
    /// E4M3 values and scales of each token's tiles of 128 channels; the last tile may be short.
    func quantized() throws -> (values: Activations, scales: Activations) {
        let values = try copy()
        let scales = try Activations(rows: rows, columns: ceilingDivide(columns, 128))
        for row in 0..<rows { ck_quantize_activations(values[row], columns, scales[row]) }
        return (values, scales)
    }
}
