import CKernels
import Tensors

/// compressed-tensors `float-quantized`: E4M3 codes with one scale a row (channel) or one for the whole tensor.
///
/// Reference: vllm-project/compressed-tensors:quantization/utils/helpers.py (`calculate_qparams`) and
/// lifecycle/forward_helpers.py (`_quantize`): the arithmetic runs in the weight's dtype, so scale = round_bf16(amax / 448)
/// (2^-7 if that is zero) and code = E4M3(clamp(round_bf16(w / scale), -448, 448)).
package struct FloatQuantizedLayout: FloatCodedLayout, WideLayout, Equatable {
    package enum Strategy: Sendable, Equatable { case channel, tensor }

    package var holdsFP8: Bool { true }
    package var strategy: Strategy
    package var scaleType: ScalarType
    /// `[out, 1]`, or `[out]` as some tools write it; `[1]` or `[]` for a whole tensor.
    package var scaleShape: [Int]?
    /// `weight_scale`, or `weight_scale_inv` as Mistral names it.
    package var scaleLeaf: String

    package init(
        strategy: Strategy = .channel, scaleType: ScalarType = .bf16, scaleShape: [Int]? = nil, scaleLeaf: String = "weight_scale"
    ) {
        self.scaleLeaf = scaleLeaf
        self.strategy = strategy
        self.scaleType = scaleType
        self.scaleShape = scaleShape
    }

    package var name: String { strategy == .channel ? "fp8-channel" : "fp8-tensor" }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let values = WeightPart("weight", .f8E4M3, [shape.rows, shape.columns])
        return switch strategy {
        case .channel: [values, WeightPart(scaleLeaf, scaleType, scaleShape ?? [shape.rows, 1])]
        case .tensor: [values, WeightPart(scaleLeaf, scaleType, scaleShape ?? [1], rows: .whole)]
        }
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let target = values.baseAddress else { return }
        let columns = shape.columns
        // One scale for the tile, or one for each row of it.
        let rowsPerScale = strategy == .tensor ? rows.count : 1
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS)) { table in
            for (index, row) in stride(from: 0, to: rows.count, by: rowsPerScale).enumerated() {
                var scale = scaleType.float(in: parts[1], at: index)
                ck_e4m3_decode(
                    KernelLevel.active.rawValue, codes + row * columns, target + row * columns, rowsPerScale, columns, columns, &scale,
                    table.baseAddress)
            }
        }
    }

    /// The reference computes in the scale's type.
    package var exceedsBF16: Bool { scaleType != .bf16 }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let target = target.baseAddress else { return }
        for row in 0..<rows.count {
            let start = row * shape.columns
            E4M3.decodeFloats(codes + start, count: shape.columns, into: target + start)
            ck_f32_scale(target + start, shape.columns, scaleType.float(in: parts[1], at: strategy == .tensor ? 0 : row))
        }
        if scaleType == .bf16 { ck_round_to_bf16(target, rows.count * shape.columns) }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, search: BlockScaleSearch?,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard strategy == .channel, scaleType == .bf16 else { throw .readOnly }
        guard let source = values.baseAddress, let codes = parts[0].scalars(UInt8.self).baseAddress else { return }
        let scales = parts[1].scalars(UInt16.self)
        let level = KernelLevel.active.rawValue
        let columns = shape.columns
        for row in 0..<rows.count {
            let start = row * columns
            scales[row] = ck_bf16_amax(level, source + start, columns, 1, columns)
            guard scales[row] < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
            ck_bf16_symmetric_scales(scales.baseAddress! + row, 1, Float8E4M3.greatest)
            if let search {
                let block = BlockScaleSearch.Block(values: source + start, stride: columns, width: columns, firstColumn: 0)
                scales[row] = better(scales[row], block, codes + start, search)
            }
            ck_e4m3_encode_bf16_scale(level, source + start, scales[row], columns, codes + start)
        }
    }

    private func better(_ standard: UInt16, _ row: BlockScaleSearch.Block, _ codes: UnsafeMutablePointer<UInt8>, _ search: BlockScaleSearch) -> UInt16
    {
        let level = KernelLevel.active.rawValue
        let candidates = BlockScaleSearch.e4m3Shares.lazy.map { BFloat16(rounding: BFloat16(bits: standard).value * $0) }.filter(\.value.isNormal)
        return withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS)) { table in
            search.best(of: candidates, row) { scale, decoded in
                var factor = scale.value
                ck_e4m3_encode_bf16_scale(level, row.values, scale.bits, row.width, codes)
                ck_e4m3_decode(level, codes, decoded, 1, row.width, row.width, &factor, table.baseAddress)
            }?.bits
        } ?? standard
    }
}
