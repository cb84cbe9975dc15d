import CKernels
import Tensors

/// Signed 8-bit codes with one scale for each block of rows x columns; blocks at the edges are partial.
///
/// Reference: sgl-project/sglang:python/sglang/srt/layers/quantization/blockwise_int8.py and int8_utils.py, for meituan/DeepSeek-R1-Block-INT8.
/// Decoding is round_bf16(F32(code) * scale). There is no published encoder for CPUs: scale = max(amax, 1e-4) / 127 over the block in F32, and
/// code = rint(F32(w) / scale), as FP8 blocks have it.
package struct BlockScaledIntegerLayout: WideLayout, Equatable {
    package var blockRows: Int
    package var blockColumns: Int
    /// F32, BF16 or F16.
    package var scaleType: ScalarType

    package init(blockRows: Int = 128, blockColumns: Int = 128, scaleType: ScalarType = .f32) {
        self.blockRows = blockRows
        self.blockColumns = blockColumns
        self.scaleType = scaleType
    }

    package var name: String { blockRows == 128 && blockColumns == 128 ? "int8-block" : "int8-block \(blockRows)x\(blockColumns)" }
    package var needsDescription: Bool { true }
    package var rowAlignment: Int { blockRows }
    package func groupColumns(of columns: Int) -> Int { blockColumns }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [
            WeightPart("weight", .i8, [shape.rows, shape.columns]),
            WeightPart(
                "weight_scale_inv", scaleType, [ceilingDivide(shape.rows, blockRows), ceilingDivide(shape.columns, blockColumns)],
                rows: .every(blockRows)),
        ]
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let target = values.baseAddress else { return }
        let source = parts[0].scalars(UInt8.self)
        let (columns, blocks) = (shape.columns, ceilingDivide(shape.columns, blockColumns))
        let level = KernelLevel.active.rawValue
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: max(1, columns)) { codes in
            for row in 0..<rows.count {
                let start = row * columns
                for column in 0..<columns { codes[column] = source[start + column] ^ 0x80 }
                for block in 0..<blocks {
                    let first = block * blockColumns
                    ck_affine_decode(
                        level, codes.baseAddress! + first, min(blockColumns, columns - first),
                        scaleType.float(in: parts[1], at: row / blockRows * blocks + block), 128, 0, Int32(CK_TYPE_F32), target + start + first)
                }
            }
        }
    }

    package var exceedsBF16: Bool { true }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        let codes = parts[0].scalars(Int8.self), blocks = ceilingDivide(shape.columns, blockColumns)
        for row in 0..<rows.count {
            for block in 0..<blocks {
                let scale = scaleType.float(in: parts[1], at: row / blockRows * blocks + block)
                for column in block * blockColumns..<min(shape.columns, (block + 1) * blockColumns) {
                    let place = row * shape.columns + column
                    target[place] = Float(codes[place]) * scale
                }
            }
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress, let codes = parts[0].scalars(UInt8.self).baseAddress else { return }
        let (columns, level) = (shape.columns, KernelLevel.active.rawValue)
        var block = 0
        for row in stride(from: 0, to: rows.count, by: blockRows) {
            let height = min(blockRows, rows.count - row)
            for column in stride(from: 0, to: columns, by: blockColumns) {
                let width = min(blockColumns, columns - column)
                let amax = ck_bf16_amax(level, source + row * columns + column, columns, height, width)
                guard amax < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
                scaleType.store(max(BFloat16(bits: amax).value, 1e-4) / 127, in: parts[1], at: block)
                let scale = scaleType.float(in: UnsafeRawBufferPointer(parts[1]), at: block)
                let (scales, offsets): ([Float], [Float]) = ([scale], [128])
                for line in row..<row + height {
                    let start = line * columns + column
                    ck_affine_encode(
                        level, source + start, width, 1, 1, width, scales, offsets, 255, Int32(CK_ZERO_POINT_F32), codes + start)
                    for place in start..<start + width { codes[place] ^= 0x80 }
                }
                block += 1
            }
        }
    }
}
