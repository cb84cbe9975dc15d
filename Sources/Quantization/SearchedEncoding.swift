import CKernels
import Formats
import Tensors

/// Encoding tiles of values with a quantizer of one's choice, for the layouts that have one.
public enum SearchedEncoding {
    /// Why a layout cannot take a quantizer; nil if it can.
    public static func obstacle(_ layout: any WeightLayout, _ quantizer: QuantizerName) -> String? {
        if quantizer == .rtn || layout.isDense { return nil }
        if layout is any IntegerCodedLayout { return nil }
        if layout is BlockScaledFP8Layout, [.mse, .imatrix].contains(quantizer) { return nil }
        let takes = layout is BlockScaledFP8Layout ? "rtn, mse and imatrix" : "rtn only"
        return "\(layout.name) takes the quantizer \(takes), not \(quantizer.rawValue)"
    }

    /// Chooses codes and scales of a tile, a run of whole rows, and stores them. What is given here is enough for every quantizer but those
    /// that need second moments; ``QuantizerName/withoutStatistics`` stands in for them.
    public static func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, layout: any WeightLayout, quantizer: QuantizerName,
        importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        let quantizer = quantizer.needs == .hessian || quantizer == .imatrix && importance == nil ? quantizer.withoutStatistics : quantizer
        if quantizer == .rtn || obstacle(layout, quantizer) != nil { return try layout.encode(values, rows: rows, shape: shape, into: parts) }
        if let blocks = layout as? BlockScaledFP8Layout {
            return try blocks.encodeSearching(values, rows: rows, shape: shape, importance: importance, into: parts)
        }
        guard let coded = layout as? any IntegerCodedLayout, coded.hasContiguousGroups else { throw .readOnly }
        let weights = try floats(values, rows: rows, shape: shape)
        let chosen = choose(weights, IntegerGrid(coded), quantizer, importance)
        try store(chosen, coded, rows: rows, shape: shape, into: parts)
    }

    private static func choose(_ weights: WeightRows, _ grid: IntegerGrid, _ quantizer: QuantizerName, _ importance: [Float]?) -> QuantizedRows {
        let chooser: any Quantizer = quantizer == .hqq ? HalfQuadratic() : ScaleSearch(importance: quantizer == .imatrix ? importance : nil)
        return chooser.quantize(weights, on: grid)
    }

    /// BF16 values as F32, all of which must be finite.
    public static func floats(_ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape) throws(EncodingFault) -> WeightRows {
        let count = rows.count * shape.columns
        if ck_bf16_count_nonfinite(values.baseAddress, count) > 0 {
            let bad = values.prefix(count).firstIndex { $0 & 0x7FFF >= 0x7F80 } ?? 0
            throw .notFinite(row: rows.lowerBound + bad / max(1, shape.columns))
        }
        var result = [Float](repeating: 0, count: count)
        ck_bf16_to_f32(values.baseAddress, &result, count)
        return WeightRows(values: result, rows: rows.count, columns: shape.columns)
    }

    public static func store(
        _ chosen: QuantizedRows, _ layout: any IntegerCodedLayout, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        let count = layout.groupCount(shape)
        if layout.scaleType == .f16, let bad = chosen.groups.firstIndex(where: { !layout.holds($0) }) {
            throw .overflowsF16(row: rows.lowerBound + bad / max(1, count))
        }
        chosen.codes.withUnsafeBufferPointer { codes in
            chosen.groups.withUnsafeBufferPointer { groups in
                guard let codes = codes.baseAddress, let groups = groups.baseAddress else { return }
                layout.store(codes: codes, groups: groups, rows: rows, shape: shape, into: parts)
            }
        }
    }
}

extension BlockScaledFP8Layout {
    /// Scales of least (weighted) squared error per block, among those that put the largest magnitude at 448, at smaller codes, or a
    /// little beyond. E4M3's steps double at every power of two, so where a block's values fall among them matters.
    func encodeSearching(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress, let codes = parts[0].scalars(UInt8.self).baseAddress else { return }
        let columns = shape.columns
        let level = KernelLevel.active.rawValue
        // Powers of two leave nothing but the exponent to choose.
        let shares: [Float] = roundsScaleUp ? [1, 0.5] : (0...16).map { 1 + Float($0) / 16 } + [0.94, 0.97]
        var tile = [UInt8](repeating: 0, count: blockRows * blockColumns)
        var block = 0
        for row in stride(from: 0, to: rows.count, by: blockRows) {
            let height = min(blockRows, rows.count - row)
            for column in stride(from: 0, to: columns, by: blockColumns) {
                let width = min(blockColumns, columns - column)
                let start = row * columns + column
                let amax = ck_bf16_amax(level, source + start, columns, height, width)
                guard amax < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
                var base = max(BFloat16(bits: amax).value, 1e-4) / Float8E4M3.greatest
                if roundsScaleUp { base = base.roundedUpToPowerOfTwo }
                var best = (error: Double.infinity, scale: base)
                for share in shares {
                    let scale = scaleType.rounded(base * share)
                    guard scale.isNormal else { continue }
                    ck_e4m3_encode(level, source + start, columns, &tile, width, height, width, scale)
                    var error = 0.0
                    for y in 0..<height {
                        for x in 0..<width {
                            let w = BFloat16(bits: source[start + y * columns + x]).value
                            let difference = Double(w - Float8E4M3(bits: tile[y * width + x]).value * scale)
                            error += difference * difference * Double(importance?[column + x] ?? 1)
                        }
                    }
                    if error < best.error { best = (error, scale) }
                }
                scaleType.store(best.scale, in: parts[1], at: block)
                ck_e4m3_encode(level, source + start, columns, codes + start, columns, height, width, best.scale)
                block += 1
            }
        }
    }
}
