import CKernels
import Formats
import Tensors

/// Encoding tiles of values with a quantizer of one's choice, for the layouts that have one.
package enum SearchedEncoding {
    /// Chooses codes and scales of a tile, a run of whole rows, and stores them. What is given here is enough for every quantizer but those
    /// that need second moments; ``QuantizerName/withoutStatistics`` stands in for them.
    package static func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, layout: any WeightLayout, quantizer: QuantizerName,
        importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws {
        let isKnown = quantizer.needs == .nothing || quantizer.needs == .moments && importance != nil
        let quantizer = isKnown ? quantizer : quantizer.withoutStatistics
        let importance = quantizer.needs == .moments ? importance : nil
        if quantizer == .rtn || !quantizer.method.serves(layout) { return try layout.encode(values, rows: rows, shape: shape, into: parts) }
        if let weighted = layout as? any ImportanceWeightedLayout {
            return try weighted.encode(values, rows: rows, shape: shape, importance: importance, into: parts)
        }
        if let floating = layout as? any FloatCodedLayout {
            return try floating.encode(values, rows: rows, shape: shape, search: BlockScaleSearch(importance: importance), into: parts)
        }
        guard let coded = layout as? any IntegerCodedLayout, coded.hasContiguousGroups else { throw EncodingFault.readOnly }
        let weights = try floats(values, rows: rows, shape: shape)
        let chosen = try quantizer.method.quantize(weights, on: IntegerGrid(coded), RowEvidence(importance: importance))
        try store(chosen, coded, rows: rows, shape: shape, into: parts)
    }

    /// BF16 values as F32, all of which must be finite.
    package static func floats(_ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape) throws(EncodingFault) -> WeightRows {
        let count = rows.count * shape.columns
        if ck_bf16_count_nonfinite(values.baseAddress, count) > 0 {
            let bad = values.prefix(count).firstIndex { $0 & 0x7FFF >= 0x7F80 } ?? 0
            throw .notFinite(row: rows.lowerBound + bad / max(1, shape.columns))
        }
        var result = [Float](repeating: 0, count: count)
        ck_bf16_to_f32(values.baseAddress, &result, count)
        return WeightRows(values: result, rows: rows.count, columns: shape.columns)
    }

    package static func store(
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
