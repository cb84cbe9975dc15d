import CKernels
import Tensors

/// E4M3 codes with one scale for each block of rows x columns; blocks at the edges are partial.
///
/// Reference: deepseek-ai/DeepSeek-V3:inference/kernel.py (`weight_dequant`, `act_quant`) and README_WEIGHTS.md.
/// Decoding is round_bf16(F32(code) * scale). Encoding takes scale = max(amax, 1e-4) / 448 over the block in F32
/// (rounded up to a power of two if ``roundsScaleUp``) and code = E4M3(F32(w) / scale).
package struct BlockScaledFP8Layout: FloatCodedLayout, ScaledBlockLayout, WideLayout, Equatable {
    package var holdsFP8: Bool { true }
    package var blockRows: Int
    package var blockColumns: Int
    /// F32, BF16, F16 or F8_E8M0.
    package var scaleType: ScalarType
    /// The scale's leaf name: `weight_scale_inv` (DeepSeek), `weight_scale` (compressed-tensors) or `scale` (V4).
    package var scaleLeaf: String
    /// UE8M0: scales are powers of two.
    package var roundsScaleUp: Bool

    package init(
        blockRows: Int = 128, blockColumns: Int = 128, scaleType: ScalarType = .f32, scaleLeaf: String = "weight_scale_inv",
        roundsScaleUp: Bool = false
    ) {
        self.blockRows = blockRows
        self.blockColumns = blockColumns
        self.scaleType = scaleType
        self.scaleLeaf = scaleLeaf
        self.roundsScaleUp = roundsScaleUp
    }

    package var name: String {
        let geometry = blockRows == 128 && blockColumns == 128 ? "" : " \(blockRows)x\(blockColumns)"
        return (roundsScaleUp ? "fp8-block-ue8m0" : "fp8-block") + geometry
    }

    package var rowAlignment: Int { blockRows }

    /// Scales that are powers of two are scales like any other; the other way round they must be.
    package func isStored(as other: any WeightLayout, shape: MatrixShape) -> Bool {
        guard let other = other as? BlockScaledFP8Layout, parts(of: shape) == other.parts(of: shape) else { return false }
        return !roundsScaleUp || other.roundsScaleUp
    }

    package func groupColumns(of columns: Int) -> Int { blockColumns }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [
            WeightPart("weight", .f8E4M3, [shape.rows, shape.columns]),
            WeightPart(
                scaleLeaf, scaleType, [ceilingDivide(shape.rows, blockRows), ceilingDivide(shape.columns, blockColumns)],
                rows: .every(blockRows)),
        ]
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let target = values.baseAddress else { return }
        let columns = shape.columns
        let blocks = ceilingDivide(columns, blockColumns)
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS) * blocks) { tables in
            withUnsafeTemporaryAllocation(of: Float.self, capacity: blocks) { scales in
                for (band, row) in stride(from: 0, to: rows.count, by: blockRows).enumerated() {
                    for block in 0..<blocks { scales[block] = scaleType.float(in: parts[1], at: band * blocks + block) }
                    ck_e4m3_decode(
                        KernelLevel.active.rawValue, codes + row * columns, target + row * columns, min(blockRows, rows.count - row), columns,
                        blockColumns, scales.baseAddress, tables.baseAddress)
                }
            }
        }
    }

    /// A power of two moves exponents only.
    package var exceedsBF16: Bool { scaleType != .f8E8M0 }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let target = target.baseAddress else { return }
        let blocks = ceilingDivide(shape.columns, blockColumns)
        for row in 0..<rows.count {
            let start = row * shape.columns
            E4M3.decodeFloats(codes + start, count: shape.columns, into: target + start)
            for block in 0..<blocks {
                let first = block * blockColumns
                ck_f32_scale(
                    target + start + first, min(blockColumns, shape.columns - first),
                    scaleType.float(in: parts[1], at: row / blockRows * blocks + block))
            }
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, search: BlockScaleSearch?,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress, let codes = parts[0].scalars(UInt8.self).baseAddress else { return }
        let columns = shape.columns
        let level = KernelLevel.active.rawValue
        var block = 0
        for row in stride(from: 0, to: rows.count, by: blockRows) {
            let height = min(blockRows, rows.count - row)
            for column in stride(from: 0, to: columns, by: blockColumns) {
                let width = min(blockColumns, columns - column)
                let start = row * columns + column
                let amax = ck_bf16_amax(level, source + start, columns, height, width)
                guard amax < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
                var scale = max(BFloat16(bits: amax).value, 1e-4) / Float8E4M3.greatest
                if roundsScaleUp { scale = scale.roundedUpToPowerOfTwo }
                if let search {
                    let block = BlockScaleSearch.Block(
                        values: source + start, stride: columns, height: height, width: width, firstColumn: column)
                    scale = better(scale, block, search)
                }
                scaleType.store(scale, in: parts[1], at: block)
                ck_e4m3_encode(level, source + start, columns, codes + start, columns, height, width, scale)
                block += 1
            }
        }
    }

    private func better(_ standard: Float, _ block: BlockScaleSearch.Block, _ search: BlockScaleSearch) -> Float {
        // Powers of two leave nothing but the exponent to choose.
        let shares = roundsScaleUp ? [1, 0.5] : BlockScaleSearch.e4m3Shares
        let candidates = shares.lazy.map { scaleType.rounded(standard * $0) }.filter(\.isNormal)
        let level = KernelLevel.active.rawValue
        return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: block.height * block.width) { codes in
            withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS)) { table in
                search.best(of: candidates, block) { scale, decoded in
                    var scale = scale
                    ck_e4m3_encode(level, block.values, block.stride, codes.baseAddress, block.width, block.height, block.width, scale)
                    ck_e4m3_decode(level, codes.baseAddress, decoded, block.height, block.width, block.width, &scale, table.baseAddress)
                }
            }
        } ?? standard
    }
}

extension Float {
    /// 2^ceil(log2(self)) of a positive normal number.
    package var roundedUpToPowerOfTwo: Float {
        significand == 1 ? self : Float(sign: .plus, exponent: Int(exponent) + 1, significand: 1)
    }
}
