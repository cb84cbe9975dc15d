import Tensors

/// MXFP4 codes and exponents as ggml's blocks: the exponent first, then the codes of the first half of a group in the low halves of the bytes.
struct MXFP4Blocks: Repacking {
    let from: MXFP4Layout
    let to: GGMLBlockLayout

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }
    var needsScales: Bool { false }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? { nil }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        let (codes, exponents, blocks) = (parts[0], parts[1], targets[0])
        for group in 0..<rows.count * shape.columns / 32 {
            let block = group * 17
            blocks[block] = exponents[group]
            for j in 0..<16 {
                // Value 2i is the low half of byte i, value 2i + 1 its high half.
                let low = codes[group * 16 + j / 2] >> (j % 2 * 4) & 15
                let high = codes[group * 16 + 8 + j / 2] >> (j % 2 * 4) & 15
                blocks[block + 1 + j] = low | high << 4
            }
        }
    }
}

/// Integers in groups of 32 columns as ggml's blocks of 32 of as many bits or more, where F16 holds their scales (and, for types that have some, their
/// minima) exactly.
struct IntegerBlocks: Repacking {
    let from: any IntegerCodedLayout
    let to: GGMLBlockLayout
    private let bits: Int
    private let hasMinimum: Bool

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }

    /// Nil where the two have nothing in common.
    init?(_ from: any IntegerCodedLayout, _ to: GGMLBlockLayout) {
        switch to.type {
        case .q4_0, .q4_1: bits = 4
        case .q5_0, .q5_1: bits = 5
        case .q8_0: bits = 8
        default: return nil
        }
        hasMinimum = to.type == .q4_1 || to.type == .q5_1
        // A reader of F16 scales rounds its products to F16, and ggml's does not.
        guard from.bits <= bits, from.groupSize == 32, from.hasContiguousGroups, from.scaleType == .bf16 else { return nil }
        self.from = from
        self.to = to
    }

    private static func isExact(_ value: Float) -> Bool { value.isFinite && Binary16(rounding: value).value == value }

    /// What is added to a code: ggml's have their zero in the middle, or at the minimum.
    private func shift(_ group: GroupParameters) -> Int? {
        if hasMinimum { return 0 }
        guard let zero = Int(exactly: group.zero) else { return nil }
        let shift = 1 << (bits - 1) - zero
        return shift >= 0 && shift + 1 << from.bits <= 1 << bits ? shift : nil
    }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        let count = rows.count * from.groupCount(shape)
        return withUnsafeTemporaryAllocation(of: GroupParameters.self, capacity: max(1, count)) { groups -> String? in
            guard let base = groups.baseAddress else { return nil }
            from.readGroups(parts, rows: rows, shape: shape, into: base)
            for index in 0..<count {
                let group = groups[index]
                guard Self.isExact(group.scale) else { return "F16 does not hold the scale \(group.scale), and \(to.name) stores scales in it" }
                if shift(group) == nil { return "\(to.name) has no zero points, and with \(group.zero) not every code has a place" }
                if hasMinimum, !Self.isExact(-group.zero * group.scale) { return "F16 does not hold the minimum \(-group.zero * group.scale)" }
            }
            return nil
        }
    }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        let blocks = targets[0]
        let size = (hasMinimum ? 4 : 2) + (bits == 8 ? 32 : bits == 5 ? 20 : 16)
        from.withCodes(parts, rows: rows, shape: shape) { codes, groups in
            for group in 0..<rows.count * shape.columns / 32 {
                let codes = codes + group * 32
                let shift = UInt8(truncatingIfNeeded: shift(groups[group]) ?? 0)
                var place = group * size
                func put(_ value: Float) {
                    let bits = Binary16(rounding: value).bits
                    blocks[place] = UInt8(truncatingIfNeeded: bits)
                    blocks[place + 1] = UInt8(bits >> 8)
                    place += 2
                }
                put(groups[group].scale)
                if hasMinimum { put(-groups[group].zero * groups[group].scale) }
                if bits == 8 {
                    for j in 0..<32 { blocks[place + j] = codes[j] &+ shift &- 128 }
                    continue
                }
                if bits == 5 {
                    // The fifth bits of all codes come first.
                    for byte in 0..<4 { blocks[place + byte] = (0..<8).reduce(0) { $0 | ((codes[byte * 8 + $1] &+ shift) >> 4 & 1) << UInt8($1) } }
                    place += 4
                }
                for j in 0..<16 { blocks[place + j] = (codes[j] &+ shift) & 15 | (codes[j + 16] &+ shift) << 4 }
            }
        }
    }
}
