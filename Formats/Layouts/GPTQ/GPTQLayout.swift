import CKernels
import Tensors

/// GPTQ's checkpoint form: `qweight` I32 [in*bits/32, out], `qzeros` I32 [groups, out*bits/32], `scales` F16 [groups, out],
/// `g_idx` I32 [in].
///
/// Codes are packed along the input channels, lowest bits first; zero points along the output channels. Value =
/// scale * (code - zero). Format v1 stores zero - 1, format v2 zero itself.
/// Reference: ModelCloud/GPTQModel:gptqmodel/nn_modules/qlinear/__init__.py (`pack_original`, `dequantize_weight`),
/// gptqmodel/quantization/quantizer.py (`find_params`, in F32) and rtn.py.
package struct GPTQLayout: IntegerCodedLayout, Equatable {
    /// 2, 3, 4 or 8.
    package var bits: Int
    package var groupSize: Int?
    /// All zero points are 2^(bits - 1).
    package var symmetric: Bool
    /// `checkpoint_format`: 1 ("gptq") or 2 ("gptq_v2").
    package var version: Int
    package var scaleType: ScalarType
    /// Groups are scattered over the columns by `g_idx` (`desc_act`); such weights are read only.
    package var isOrdered: Bool
    /// Whether `g_idx` is stored; without it groups are runs of columns.
    package var hasOrder: Bool

    package init(
        bits: Int = 4, groupSize: Int? = 128, symmetric: Bool = true, version: Int = 1, scaleType: ScalarType = .f16, isOrdered: Bool = false,
        hasOrder: Bool = true
    ) {
        self.hasOrder = hasOrder
        self.bits = bits
        self.groupSize = groupSize
        self.symmetric = symmetric
        self.version = version
        self.scaleType = scaleType
        self.isOrdered = isOrdered
    }

    package var name: String {
        var name = "gptq"
        if bits != 4 { name += "-\(bits)bit" }
        if groupSize != 128 { name += groupSize.map { "-g\($0)" } ?? "-channel" }
        if !symmetric { name += "-asym" }
        if version == 2, symmetric { name += "-v2" }
        if isOrdered { name += " in activation order" }
        return name
    }

    /// Zero points fill whole words: 32 / gcd(bits, 32) rows.
    package var rowAlignment: Int { 32 / (bits & -bits) }
    package var preferredRows: Int { 512 }
    package var hasContiguousGroups: Bool { !isOrdered }
    package var zeroPoints: ZeroPoints { symmetric ? .middle : .whole((version == 1 ? 1 : 0)...(1 << bits) - 1) }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let groups = groupCount(shape)
        let parts = [
            WeightPart("qweight", .i32, [shape.columns * bits / 32, shape.rows], rows: .along(bits: 32)),
            WeightPart("qzeros", .i32, [groups, shape.rows * bits / 32], rows: .along(bits: bits)),
            WeightPart("scales", scaleType, [groups, shape.rows], rows: .along(bits: scaleType.bitWidth)),
        ]
        return hasOrder ? parts + [WeightPart("g_idx", .i32, [shape.columns], rows: .whole)] : parts
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        // Whole words along both dimensions; GPTQModel asks for multiples of 32 whatever the width.
        if shape.columns % 32 != 0 { return "\(shape.columns) columns are not a multiple of 32" }
        if shape.rows * bits % 32 != 0 { return "\(shape.rows) zero points of \(bits) bits do not fill words of 32 bits" }
        if let groupSize, shape.columns % groupSize != 0 { return "\(shape.columns) columns are not a multiple of the group size \(groupSize)" }
        return nil
    }

    /// Zero points that contradict what the configuration says: one that is not the middle in symmetric codes (format v2 read as v1 is off by
    /// one everywhere), or one in format v1 whose successor does not fit, which readers take for 0 or for 2^bits.
    package func fault(in part: WeightPart, _ bytes: UnsafeRawBufferPointer) -> StoredFault? {
        guard part.leaf == "qzeros" else { return defaultFault(in: part, bytes) }
        let top = (1 << bits) - 1
        let middle = version == 1 ? top >> 1 : (top >> 1) + 1
        var found: StoredFault?
        guard let words = bytes.scalars(UInt32.self).baseAddress else { return nil }
        BitStream.unpack(words, bits: bits, count: bytes.count / 4 * 32 / bits) { index, stored in
            guard found == nil else { return }
            if symmetric, Int(stored) != middle {
                found = StoredFault(
                    index: index, value: "\(stored)",
                    reason: "symmetric GPTQ of format v\(version) stores \(middle) (sym, checkpoint_format)")
            } else if version == 1, Int(stored) == top {
                found = StoredFault(index: index, value: "\(stored)", reason: "format v1 stores a zero point less 1, and \(top) + 1 has no code")
            }
        }
        return found
    }

    // MARK: Codes

    package func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>) {
        guard let words = parts[0].scalars(UInt32.self).baseAddress else { return }
        let wordsPerRow = shape.columns * bits / 32
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: max(1, rows.count * wordsPerRow)) { turned in
            ck_turn_words(KernelLevel.active.rawValue, words, rows.count, wordsPerRow, rows.count, turned.baseAddress, wordsPerRow)
            BitStream.unpackRows(
                UnsafeRawBufferPointer(turned), bits: bits, wordsPerRow: wordsPerRow, rows: rows.count, columns: shape.columns, into: codes)
        }
    }

    package func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into groups: UnsafeMutablePointer<GroupParameters>
    ) {
        guard let zeros = parts[1].scalars(UInt32.self).baseAddress else { return }
        let count = groupCount(shape)
        for group in 0..<count {
            BitStream.unpack(zeros + group * (rows.count * bits / 32), bits: bits, count: rows.count) { row, stored in
                // Format v1's 2^bits - 1 stands for 2^bits: its readers add one after unpacking.
                groups[row * count + group] = GroupParameters(
                    scale: scaleType.float(in: parts[2], at: group * rows.count + row), zero: Float(version == 1 ? stored + 1 : stored))
            }
        }
    }

    package func store(
        codes: UnsafePointer<UInt8>, groups: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) {
        let count = groupCount(shape)
        clear(parts, shape)
        put(codes, rows: 0..<rows.count, columns: 0..<shape.columns, groups: 0..<count, height: rows.count, into: parts) { groups[$0 * count + $1] }
    }

    /// Zero points are put bit by bit into words that are zero before; the order says of every column its group.
    private func clear(_ parts: [UnsafeMutableRawBufferPointer], _ shape: MatrixShape) {
        parts[1].initializeMemory(as: UInt8.self, repeating: 0)
        guard hasOrder else { return }
        let order = parts[3].scalars(Int32.self)
        let size = groupSize ?? shape.columns
        for column in 0..<shape.columns { order[column] = Int32(column / size) }
    }

    /// Puts a block of a tile that is `height` rows high in its place. `parameters` are asked for by row and group of the block.
    private func put(
        _ codes: UnsafePointer<UInt8>, rows: Range<Int>, columns: Range<Int>, groups: Range<Int>, height: Int,
        into parts: [UnsafeMutableRawBufferPointer], parameters: (_ row: Int, _ group: Int) -> GroupParameters
    ) {
        guard let words = parts[0].scalars(UInt32.self).baseAddress, let zeros = parts[1].scalars(UInt32.self).baseAddress else { return }
        let wordsPerRow = columns.count * bits / 32
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: max(1, rows.count * wordsPerRow)) { turned in
            BitStream.packRows(
                codes, bits: bits, wordsPerRow: wordsPerRow, rows: rows.count, columns: columns.count, into: UnsafeMutableRawBufferPointer(turned))
            ck_turn_words(
                KernelLevel.active.rawValue, turned.baseAddress, wordsPerRow, rows.count, wordsPerRow,
                words + columns.lowerBound * bits / 32 * height + rows.lowerBound, height)
        }
        for (place, group) in groups.enumerated() {
            BitStream.pack(zeros + (group * height + rows.lowerBound) * bits / 32, bits: bits, count: rows.count) { row in
                code(zero: parameters(row, place).zero - (version == 1 ? 1 : 0))
            }
            for row in 0..<rows.count { scaleType.store(parameters(row, place).scale, in: parts[2], at: group * height + rows.lowerBound + row) }
        }
    }

    /// With activation order every column looks its group up; without it groups are decoded one by one.
    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard isOrdered else { return decodeGroups(parts, rows: rows, shape: shape, into: values) }
        decodeByTable(parts, rows: rows, shape: shape, into: values, value: value)
    }

    package func columnGroups(_ parts: [UnsafeRawBufferPointer], _ shape: MatrixShape) -> [Int]? {
        guard isOrdered else { return nil }
        let order = parts[3].scalars(Int32.self), last = groupCount(shape) - 1
        return (0..<shape.columns).map { min(max(Int(order[$0]), 0), last) }
    }

    // MARK: Repacking

    package var requirement: String {
        let zero = symmetric ? "the zero point \(1 << (bits - 1))" : version == 1 ? "a zero point above 0" : "a zero point"
        return "a non-negative \(scaleType.rawValue) scale and \(zero)"
    }

    package func holds(_ group: GroupParameters) -> Bool {
        guard scaleType.holds(group.scale), group.scale >= 0, group.zero.rounded() == group.zero else { return false }
        return symmetric ? group.zero == Float(1 << (bits - 1)) : (Float(version == 1 ? 1 : 0)...Float((1 << bits) - 1)).contains(group.zero)
    }

    package func adopting(scaleType: ScalarType) -> Self { self }

    // MARK: Round to nearest

    /// In F32: symmetric with zero = 2^(bits - 1), scale = (max - min) / (2^bits - 1) where min = -max if anything is negative;
    /// otherwise zero = rint(-min / scale). Code = clamp(rint(w / scale) + zero). The F32 scale is then rounded to F16.
    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard !isOrdered, scaleType == .f16 else { throw .readOnly }
        guard let source = values.baseAddress else { return }
        let greatestCode = Float((1 << bits) - 1)
        clear(parts, shape)
        let tiles = GroupTiles(rows: rows, columns: shape.columns, groupSize: groupSize, blockRows: 128)
        try tiles.encode(source, greatestCode: greatestCode, rule: CK_ZERO_POINT_F32) { block throws(EncodingFault) in
            ck_gptq_parameters(
                KernelLevel.active.rawValue, block.least, block.greatest, block.groupCount, greatestCode,
                symmetric ? Float(1 << (bits - 1)) : 0, block.scales, block.offsets)
            try block.refuseInfiniteScales(of: rows)
        } store: { block in
            put(block.codes, rows: block.rows, columns: block.columns, groups: block.groups, height: rows.count, into: parts) {
                block.parameters($0, $1)
            }
        }
    }
}
