import Tensors

extension PackedIntegerLayout: IntegerCodedLayout {
    package var zeroPoints: ZeroPoints { symmetric ? .middle : .whole(0...(1 << bits) - 1) }

    package func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>) {
        BitStream.unpackRows(parts[0], bits: bits, wordsPerRow: wordsPerRow(shape), rows: rows.count, columns: shape.columns, into: codes)
    }

    package func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into parameters: UnsafeMutablePointer<GroupParameters>
    ) {
        let count = groups(shape)
        let middle = Float(1 << (bits - 1))
        for index in 0..<rows.count * count { parameters[index] = GroupParameters(scale: scaleType.float(in: parts[1], at: index), zero: middle) }
        guard !symmetric, let words = parts[3].scalars(UInt32.self).baseAddress else { return }
        for group in 0..<count {
            BitStream.unpack(words + group, bits: bits, stride: count, count: rows.count) { parameters[$0 * count + group].zero = Float($1) }
        }
    }

    package func store(
        codes: UnsafePointer<UInt8>, groups parameters: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) {
        BitStream.packRows(codes, bits: bits, wordsPerRow: wordsPerRow(shape), rows: rows.count, columns: shape.columns, into: parts[0])
        let count = groups(shape)
        for index in 0..<rows.count * count { scaleType.store(parameters[index].scale, in: parts[1], at: index) }
        parts[2].scalars(Int64.self)[0] = Int64(shape.rows)
        parts[2].scalars(Int64.self)[1] = Int64(shape.columns)
        guard !symmetric, let zeros = parts[3].scalars(UInt32.self).baseAddress else { return }
        parts[3].initializeMemory(as: UInt8.self, repeating: 0)
        for group in 0..<count {
            BitStream.pack(zeros + group, bits: bits, stride: count, count: rows.count) { code(zero: parameters[$0 * count + group].zero) }
        }
    }

    package var requirement: String {
        "a non-negative \(scaleType.rawValue) scale and "
            + (symmetric ? "the zero point \(1 << (bits - 1))" : "a zero point of 0 to \((1 << bits) - 1)")
    }

    package func holds(_ group: GroupParameters) -> Bool {
        guard scaleType.holds(group.scale), group.scale >= 0, group.zero.rounded() == group.zero else { return false }
        return symmetric ? group.zero == Float(1 << (bits - 1)) : (0...Float((1 << bits) - 1)).contains(group.zero)
    }

    /// The readers take the stored type, so an F16 scale stays one.
    package func adopting(scaleType: ScalarType) -> Self {
        var layout = self
        if [.bf16, .f16, .f32].contains(scaleType) { layout.scaleType = scaleType }
        return layout
    }
}
