import CKernels
import Tensors

/// The kernels of a block type: `decode(level, blocks, values, count of blocks)`, `encode(level, values, importance, blocks, rows, columns)`.
package struct GGMLCodec: Sendable {
    package typealias Decode = @Sendable @convention(c) (Int32, UnsafePointer<UInt8>?, UnsafeMutablePointer<Float>?, Int) -> Void
    package typealias Encode =
        @Sendable @convention(c) (Int32, UnsafePointer<Float>?, UnsafePointer<Float>?, UnsafeMutablePointer<UInt8>?, Int, Int) -> Void

    package let decode: Decode
    /// Nil for types that are read only.
    package let encode: Encode?

    /// Nil for a type that is no block.
    package init?(_ type: ScalarType) {
        switch type {
        case .q4_0: (decode, encode) = (ck_ggml_decode_q4_0, ck_ggml_encode_q4_0)
        case .q4_1: (decode, encode) = (ck_ggml_decode_q4_1, ck_ggml_encode_q4_1)
        case .q5_0: (decode, encode) = (ck_ggml_decode_q5_0, ck_ggml_encode_q5_0)
        case .q5_1: (decode, encode) = (ck_ggml_decode_q5_1, ck_ggml_encode_q5_1)
        case .q8_0: (decode, encode) = (ck_ggml_decode_q8_0, ck_ggml_encode_q8_0)
        case .q2K: (decode, encode) = (ck_ggml_decode_q2_K, ck_ggml_encode_q2_K)
        case .q3K: (decode, encode) = (ck_ggml_decode_q3_K, ck_ggml_encode_q3_K)
        case .q4K: (decode, encode) = (ck_ggml_decode_q4_K, ck_ggml_encode_q4_K)
        case .q5K: (decode, encode) = (ck_ggml_decode_q5_K, ck_ggml_encode_q5_K)
        case .q6K: (decode, encode) = (ck_ggml_decode_q6_K, ck_ggml_encode_q6_K)
        case .iq4NL: (decode, encode) = (ck_ggml_decode_iq4_nl, ck_ggml_encode_iq4_nl)
        case .iq4XS: (decode, encode) = (ck_ggml_decode_iq4_xs, ck_ggml_encode_iq4_xs)
        case .mxfp4Block: (decode, encode) = (ck_ggml_decode_mxfp4, ck_ggml_encode_mxfp4)
        case .nvfp4Block: (decode, encode) = (ck_ggml_decode_nvfp4, ck_ggml_encode_nvfp4)
        case .tq1_0: (decode, encode) = (ck_ggml_decode_tq1_0, nil)
        case .tq2_0: (decode, encode) = (ck_ggml_decode_tq2_0, nil)
        case .iq1S: (decode, encode) = (ck_ggml_decode_iq1_s, nil)
        case .iq1M: (decode, encode) = (ck_ggml_decode_iq1_m, nil)
        case .iq2XXS: (decode, encode) = (ck_ggml_decode_iq2_xxs, nil)
        case .iq2XS: (decode, encode) = (ck_ggml_decode_iq2_xs, nil)
        case .iq2S: (decode, encode) = (ck_ggml_decode_iq2_s, nil)
        case .iq3XXS: (decode, encode) = (ck_ggml_decode_iq3_xxs, nil)
        case .iq3S: (decode, encode) = (ck_ggml_decode_iq3_s, nil)
        default: return nil
        }
    }
}
