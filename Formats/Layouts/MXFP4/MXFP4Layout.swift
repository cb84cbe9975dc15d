import CKernels
import Tensors

/// OCP MXFP4: E2M1 codes and one E8M0 exponent for 32 columns. Value = code * 2^(exponent - 127).
///
/// The bytes are the same under every name: compressed-tensors `weight_packed` U8 [out, in/2] and `weight_scale` U8 [out, in/32];
/// MLX `weight` U32 [out, in/8] and `scales` U8; gpt-oss `_blocks` U8 [experts, out, in/32, 16] and `_scales` U8.
/// References: vllm-project/compressed-tensors:quantization/utils/mxfp_utils.py, ml-explore/mlx:mlx/ops.cpp (`fp_quantize`).
package struct MXFP4Layout: FloatCodedLayout, Equatable {
    package enum Naming: Sendable, Equatable {
        case compressedTensors
        case mlx
        /// AMD Quark: `weight` U8 [out, in/2] and `weight_scale` U8.
        case quark
        /// DeepSeek-V4: `weight` I8 [out, in/2] and `scale` F8_E8M0; read only.
        case deepSeekV4
        /// Stacked experts, `X_blocks` and `X_scales`; read only.
        case gptOSS(leaf: String, experts: Int)
        /// One of them: U8 [out, in/32, 16] and its exponents.
        case blocks
    }

    /// What the parts of one expert of a stack are called: nothing that a file would call a tensor.
    package static let blockLeaves = ["<blocks>", "<scales>"]

    package var naming: Naming
    /// U8, or F8_E8M0 where a file says so.
    package var scaleType: ScalarType

    package init(naming: Naming = .compressedTensors, scaleType: ScalarType = .u8) {
        self.naming = naming
        self.scaleType = scaleType
    }

    package var name: String {
        switch naming {
        case .compressedTensors: "mxfp4"
        case .mlx: "mlx-mxfp4"
        case .quark: "mxfp4-quark"
        case .deepSeekV4: "mxfp4 of DeepSeek-V4"
        case .gptOSS, .blocks: "mxfp4 in gpt-oss blocks"
        }
    }

    package func groupColumns(of columns: Int) -> Int { 32 }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let groups = ceilingDivide(shape.columns, 32)
        switch naming {
        case .compressedTensors:
            return [
                WeightPart("weight_packed", .u8, [shape.rows, shape.columns / 2]), WeightPart("weight_scale", scaleType, [shape.rows, groups]),
            ]
        case .mlx:
            return [WeightPart("weight", .u32, [shape.rows, shape.columns / 8]), WeightPart("scales", scaleType, [shape.rows, groups])]
        case .quark:
            return [WeightPart("weight", .u8, [shape.rows, shape.columns / 2]), WeightPart("weight_scale", scaleType, [shape.rows, groups])]
        case .deepSeekV4:
            return [WeightPart("weight", .i8, [shape.rows, shape.columns / 2]), WeightPart("scale", scaleType, [shape.rows, groups])]
        case .blocks:
            return [
                WeightPart(Self.blockLeaves[0], .u8, [shape.rows, groups, 16]), WeightPart(Self.blockLeaves[1], scaleType, [shape.rows, groups]),
            ]
        case .gptOSS(let leaf, let experts):
            let rows = experts == 0 ? 0 : shape.rows / experts
            return [
                WeightPart(leaf + "_blocks", .u8, [experts, rows, groups, 16]), WeightPart(leaf + "_scales", scaleType, [experts, rows, groups]),
            ]
        }
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.columns % 32 != 0 ? "\(shape.columns) columns are not a multiple of the group size 32" : nil
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let target = values.baseAddress else { return }
        let groups = shape.columns / 32
        var scales = [Float](repeating: 0, count: groups)
        for row in 0..<rows.count {
            for group in 0..<groups { scales[group] = Float8E8M0(bits: parts[1][row * groups + group]).value }
            ck_e2m1_decode(KernelLevel.active.rawValue, codes + row * groups * 16, groups, 32, scales, 1, target + row * shape.columns)
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, search: BlockScaleSearch?,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        switch naming {
        case .compressedTensors, .mlx, .blocks, .quark: break
        case .deepSeekV4, .gptOSS: throw .readOnly
        }
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let source = values.baseAddress else { return }
        let level = KernelLevel.active.rawValue
        let groups = shape.columns / 32
        var largest = [UInt16](repeating: 0, count: groups)
        var factors = [Float](repeating: 0, count: groups)
        for row in 0..<rows.count {
            let values = source + row * shape.columns, codes = codes + row * groups * 16
            ck_bf16_group_amax(level, values, groups, 32, &largest)
            for group in 0..<groups {
                let amax = largest[group]
                guard amax < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
                var exponent = naming == .mlx ? Self.mlxExponent(amax) : Self.exponent(amax)
                if let search {
                    let block = BlockScaleSearch.Block(values: values + group * 32, stride: 32, width: 32, firstColumn: group * 32)
                    exponent = better(exponent, block, codes + group * 16, search)
                }
                parts[1][row * groups + group] = exponent
                // Division by a power of two: exact, or so small that the code is zero.
                factors[group] = PowerOfTwoScale.reciprocal(exponent)
            }
            ck_e2m1_encode(level, values, groups, 32, factors, rule, codes)
        }
    }

    private func better(
        _ standard: UInt8, _ block: BlockScaleSearch.Block, _ codes: UnsafeMutablePointer<UInt8>, _ search: BlockScaleSearch
    ) -> UInt8 {
        let candidates = [0, 1, -1].lazy.map { Int(standard) + $0 }.filter { 0...254 ~= $0 }.map { UInt8($0) }
        return search.best(of: candidates, block) { exponent, decoded in
            let level = KernelLevel.active.rawValue
            var factor = PowerOfTwoScale.reciprocal(exponent), scale = Float8E8M0(bits: exponent).value
            ck_e2m1_encode(level, block.values, 1, 32, &factor, rule, codes)
            ck_e2m1_decode(level, codes, 1, 32, &scale, 1, decoded)
        } ?? standard
    }

    /// compressed-tensors' quotient is a BF16, which matters where it is zero, as zero has no sign.
    private var rule: Int32 { Int32(naming == .mlx ? CK_E2M1_MULTIPLY_DOWN : CK_E2M1_MULTIPLY) }

    /// compressed-tensors: amax is rounded to a power of two by adding half a step of E2M1 to its bits and dropping the mantissa;
    /// the exponent is that power's less 2, E2M1's largest exponent, and no less than 0.
    static func exponent(_ amax: UInt16) -> UInt8 {
        let power = Int(amax + 32) >> 7
        // A subnormal amax has no exponent bits: its logarithm is minus infinity, which clamps to 0.
        return UInt8(min(max(power - 2, 0), 254))
    }

    /// MLX (0.32, measured on all BF16 numbers): ceil(log2(amax / 6)), the quotient rounded to BF16. A quotient of zero has the exponent
    /// 0, stored as 127. Below 2^-127 the peer's byte wraps around; here it stops at 0.
    static func mlxExponent(_ amax: UInt16) -> UInt8 {
        let quotient = BFloat16(rounding: BFloat16(bits: amax).value / 6).value
        guard quotient > 0 else { return 127 }
        return UInt8(min(max(Int(quotient.exponent) + (quotient.significand > 1 ? 1 : 0) + 127, 0), 254))
    }
}
