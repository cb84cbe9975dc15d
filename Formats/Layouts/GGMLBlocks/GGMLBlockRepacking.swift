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

/// Integers in groups of 32 columns as ggml's blocks of 32, where F16 holds their scales (and, for Q4_1, their biases) exactly.
struct IntegerBlocks: Repacking {
    let from: any IntegerCodedLayout
    let to: GGMLBlockLayout

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }

    private var hasMinimum: Bool { to.type == .q4_1 }
    private var middle: Float { Float(1 << (from.bits - 1)) }

    /// Nil where the two have nothing in common.
    init?(_ from: any IntegerCodedLayout, _ to: GGMLBlockLayout) {
        let bits = [ScalarType.q4_0: 4, .q4_1: 4, .q8_0: 8][to.type]
        // A reader of F16 scales rounds its products to F16, and ggml's does not.
        guard bits == from.bits, from.groupSize == 32, from.hasContiguousGroups, from.scaleType == .bf16 else { return nil }
        self.from = from
        self.to = to
    }

    private static func isExact(_ value: Float) -> Bool { value.isFinite && Binary16(rounding: value).value == value }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        let count = rows.count * from.groupCount(shape)
        return withUnsafeTemporaryAllocation(of: GroupParameters.self, capacity: max(1, count)) { groups -> String? in
            guard let base = groups.baseAddress else { return nil }
            from.readGroups(parts, rows: rows, shape: shape, into: base)
            for index in 0..<count {
                let group = groups[index]
                guard Self.isExact(group.scale) else { return "F16 does not hold the scale \(group.scale), and \(to.name) stores scales in it" }
                if !hasMinimum, group.zero != middle { return "\(to.name) has no zero points, and one is \(group.zero)" }
                if hasMinimum, !Self.isExact(-group.zero * group.scale) { return "F16 does not hold the minimum \(-group.zero * group.scale)" }
            }
            return nil
        }
    }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        let blocks = targets[0]
        from.withCodes(parts, rows: rows, shape: shape) { codes, groups in
            for group in 0..<rows.count * shape.columns / 32 {
                let codes = codes + group * 32
                var place = group * (hasMinimum ? 20 : from.bits == 8 ? 34 : 18)
                func put(_ value: Float) {
                    let bits = Binary16(rounding: value).bits
                    blocks[place] = UInt8(truncatingIfNeeded: bits)
                    blocks[place + 1] = UInt8(bits >> 8)
                    place += 2
                }
                put(groups[group].scale)
                if hasMinimum { put(-groups[group].zero * groups[group].scale) }
                if from.bits == 8 {
                    for j in 0..<32 { blocks[place + j] = codes[j] &- 128 }
                } else {
                    for j in 0..<16 { blocks[place + j] = codes[j] | codes[j + 16] << 4 }
                }
            }
        }
    }
}
