import CKernels
import Tensors

/// AutoAWQ's GEMM form: `qweight` I32 [in, out/8], `qzeros` I32 [in/group, out/8], `scales` F16 [in/group, out].
///
/// Codes are packed along the output channels: nibble i of a word holds channel 8 * word + order[i]. Value = scale * (code - zero).
/// Reference: casper-hansen/AutoAWQ:awq/modules/linear/gemm.py (`from_linear`), awq/utils/packing_utils.py (`dequantize_gemm`),
/// awq/quantize/quantizer.py (`pseudo_quantize_tensor`, which computes in F16).
package struct AWQLayout: IntegerCodedLayout, Equatable {
    package var groupSize: Int?
    package let scaleType: ScalarType

    package init(groupSize: Int? = 128, scaleType: ScalarType = .f16) {
        self.groupSize = groupSize
        self.scaleType = scaleType
    }

    package var bits: Int { 4 }
    package var name: String { groupSize == 128 ? "awq" : "awq-" + (groupSize.map { "g\($0)" } ?? "channel") }
    package var rowAlignment: Int { 8 }
    package var preferredRows: Int { 1024 }
    package var zeroPoints: ZeroPoints { .whole(0...15) }

    /// Where in a word the code of channel 8 * word + c lies: AutoAWQ packs the channels in the order 0 2 4 6 1 3 5 7.
    static let shifts: [UInt32] = [0, 16, 4, 20, 8, 24, 12, 28]

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let groups = groupCount(shape)
        return [
            WeightPart("qweight", .i32, [shape.columns, shape.rows / 8], rows: .along(bits: 4)),
            WeightPart("qzeros", .i32, [groups, shape.rows / 8], rows: .along(bits: 4)),
            WeightPart("scales", scaleType, [groups, shape.rows], rows: .along(bits: scaleType.bitWidth)),
        ]
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        if shape.rows % 8 != 0 { return "\(shape.rows) rows are not a multiple of the 8 that a word holds" }
        if let groupSize, shape.columns % groupSize != 0 { return "\(shape.columns) columns are not a multiple of the group size \(groupSize)" }
        return nil
    }

    // MARK: Codes

    package func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>) {
        guard let words = parts[0].scalars(UInt32.self).baseAddress else { return }
        ck_awq_unpack(KernelLevel.active.rawValue, words, rows.count, shape.columns, codes)
    }

    package func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into groups: UnsafeMutablePointer<GroupParameters>
    ) {
        guard let zeros = parts[1].scalars(UInt32.self).baseAddress else { return }
        let count = groupCount(shape)
        for row in 0..<rows.count {
            for group in 0..<count {
                let packed = zeros[group * (rows.count / 8) + row / 8]
                groups[row * count + group] = GroupParameters(
                    scale: scaleType.float(in: parts[2], at: group * rows.count + row), zero: Float(packed >> Self.shifts[row % 8] & 15))
            }
        }
    }

    package func store(
        codes: UnsafePointer<UInt8>, groups: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) {
        let count = groupCount(shape)
        put(codes, rows: 0..<rows.count, columns: 0..<shape.columns, groups: 0..<count, height: rows.count, into: parts) { groups[$0 * count + $1] }
    }

    /// Puts a block of a tile that is `height` rows high in its place. `parameters` are asked for by row and group of the block.
    private func put(
        _ codes: UnsafePointer<UInt8>, rows: Range<Int>, columns: Range<Int>, groups: Range<Int>, height: Int,
        into parts: [UnsafeMutableRawBufferPointer], parameters: (_ row: Int, _ group: Int) -> GroupParameters
    ) {
        guard let words = parts[0].scalars(UInt32.self).baseAddress else { return }
        let zeros = parts[1].scalars(UInt32.self)
        let across = height / 8, first = rows.lowerBound / 8
        ck_awq_pack(KernelLevel.active.rawValue, codes, rows.count, columns.count, words + columns.lowerBound * across + first, across)
        for (place, group) in groups.enumerated() {
            for word in 0..<rows.count / 8 {
                var packed: UInt32 = 0
                for channel in 0..<8 {
                    let found = parameters(word * 8 + channel, place)
                    packed |= code(zero: found.zero) << Self.shifts[channel]
                    scaleType.store(found.scale, in: parts[2], at: group * height + rows.lowerBound + word * 8 + channel)
                }
                zeros[group * across + first + word] = packed
            }
        }
    }

    // MARK: Repacking

    package var requirement: String { "a non-negative \(scaleType.rawValue) scale and a zero point of 0 to 15" }

    package func holds(_ group: GroupParameters) -> Bool {
        scaleType.holds(group.scale) && group.scale >= 0 && (0...15).contains(group.zero) && group.zero.rounded() == group.zero
    }

    package func adopting(scaleType: ScalarType) -> Self { self }

    // MARK: Round to nearest

    /// In F16 arithmetic: scale = max((max - min), 1e-5) / 15, zero = clamp(-rint(min / scale)), code = clamp(rint(w / scale) + zero).
    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard scaleType == .f16 else { throw .readOnly }
        guard let source = values.baseAddress else { return }
        // 128 rows are 16 words, which fill a line of the cache.
        let tiles = GroupTiles(rows: rows, columns: shape.columns, groupSize: groupSize, blockRows: 128, columnAlignment: 1)
        try tiles.encode(source, greatestCode: 15, rule: CK_ZERO_POINT_F16) { block throws(EncodingFault) in
            ck_awq_parameters(KernelLevel.active.rawValue, block.least, block.greatest, block.groupCount, block.scales, block.offsets)
            try block.refuseInfiniteScales(of: rows)
        } store: { block in
            put(block.codes, rows: block.rows, columns: block.columns, groups: block.groups, height: rows.count, into: parts) {
                block.parameters($0, $1)
            }
        }
    }
}
