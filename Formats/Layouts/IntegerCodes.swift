import CKernels
import Tensors

/// What a group of columns shares: value = scale * (code - zero), or scale * code + bias.
package struct GroupParameters: Sendable, Equatable, BitwiseCopyable {
    package var scale: Float
    /// In the domain of unsigned codes; no whole number where the layout has a bias that is no multiple of the scale.
    package var zero: Float
    /// Of layouts that store one; exactly -zero * scale where ``zero`` is a whole number.
    package var bias: Float

    package init(scale: Float, zero: Float, bias: Float = 0) {
        self.scale = scale
        self.zero = zero
        self.bias = bias
    }
}

/// Which zero points an integer-coded layout can store.
package enum ZeroPoints: Sendable, Equatable {
    /// The middle code, 2^(bits - 1), for every group.
    case middle
    /// Whole numbers in this range.
    case whole(ClosedRange<Int>)
    /// Any: a bias is stored instead.
    case bias
}

/// A layout of unsigned integer codes with ``GroupParameters`` for every run of columns. Two such layouts of the same width and
/// group size hold the same weight in different orders, so one can be made of the other without rounding anything.
package protocol IntegerCodedLayout: WideLayout {
    var bits: Int { get }
    /// Columns that share parameters; nil for all columns of a row.
    var groupSize: Int? { get }
    /// The type of stored scales, in which the reference computes.
    var scaleType: ScalarType { get }
    /// Whether groups are runs of columns, not scattered by activation order.
    var hasContiguousGroups: Bool { get }
    /// Whether values are scale * code + bias; otherwise scale * (code - zero).
    var hasBias: Bool { get }
    var zeroPoints: ZeroPoints { get }

    /// Writes the codes of a tile, `[rows, columns]`.
    func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>)
    /// Writes the parameters of a tile, `[rows, groups]`. Needs every part but the first, which may be empty.
    func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into groups: UnsafeMutablePointer<GroupParameters>)
    /// Stores codes and parameters, which ``holds(_:)`` has accepted.
    func store(
        codes: UnsafePointer<UInt8>, groups: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer])

    /// Whether the parameters can be stored without rounding.
    func holds(_ group: GroupParameters) -> Bool
    /// This layout with the other's scale type, where the consumers read that as well.
    func adopting(scaleType: ScalarType) -> Self
    /// What a group must be to be held: for the sentence that says why it is not.
    var requirement: String { get }

    /// The value of a code as the reference dequantizes it, a number of the scale's type.
    func float(_ code: Int, _ group: GroupParameters) -> Float
    /// For each column its group; nil where groups are runs of columns.
    func columnGroups(_ parts: [UnsafeRawBufferPointer], _ shape: MatrixShape) -> [Int]?
}

extension IntegerCodedLayout {
    package var hasContiguousGroups: Bool { true }
    package func groupColumns(of columns: Int) -> Int { hasContiguousGroups ? groupSize ?? columns : columns }
    package var hasBias: Bool { false }
    package var zeroPoints: ZeroPoints { .middle }

    package func groupCount(_ shape: MatrixShape) -> Int { groupSize.map { ceilingDivide(shape.columns, $0) } ?? 1 }

    func rounded(_ value: Float) -> Float { scaleType.rounded(value) }

    /// A zero point as a code. One that does not fit has been refused before; a file that changed since must not be a trap.
    func code(zero: Float) -> UInt32 { zero.isNaN ? 0 : UInt32(min(max(zero, 0), Float((1 << bits) - 1))) }

    /// (code - zero) * scale, each step rounded to the scale's type.
    package func float(_ code: Int, _ group: GroupParameters) -> Float { rounded(rounded(Float(code) - group.zero) * group.scale) }

    /// The BF16 value of a code.
    package func value(_ code: Int, _ group: GroupParameters) -> UInt16 { BFloat16(rounding: float(code, group)).bits }

    package func columnGroups(_ parts: [UnsafeRawBufferPointer], _ shape: MatrixShape) -> [Int]? { nil }

    package var exceedsBF16: Bool { scaleType != .bf16 }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) { decodeByTable(parts, rows: rows, shape: shape, into: target, value: float) }

    /// Looks values up in a row's table of all that its codes can mean, in any order of the columns.
    func decodeByTable<Value: BitwiseCopyable>(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Value>,
        value: (_ code: Int, _ group: GroupParameters) -> Value
    ) {
        let count = groupCount(shape), size = groupSize ?? shape.columns
        let order = columnGroups(parts, shape) ?? (0..<shape.columns).map { $0 / max(1, size) }
        withCodes(parts, rows: rows, shape: shape) { codes, groups in
            withUnsafeTemporaryAllocation(of: Value.self, capacity: count << bits) { tables in
                for row in 0..<rows.count {
                    for group in 0..<count {
                        for code in 0..<(1 << bits) { tables[group << bits + code] = value(code, groups[row * count + group]) }
                    }
                    let start = row * shape.columns
                    for column in 0..<shape.columns { target[start + column] = tables[order[column] << bits + Int(codes[start + column])] }
                }
            }
        }
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) { decodeGroups(parts, rows: rows, shape: shape, into: values) }

    /// Decodes group by group, groups being runs of columns.
    func decodeGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let target = values.baseAddress, shape.columns > 0 else { return }
        withCodes(parts, rows: rows, shape: shape) { codes, groups in
            let count = groupCount(shape)
            let size = groupSize ?? shape.columns
            let level = KernelLevel.active.rawValue
            for row in 0..<rows.count {
                for group in 0..<count {
                    let parameters = groups[row * count + group]
                    let start = row * shape.columns + group * size
                    ck_affine_decode(
                        level, codes + start, min(size, shape.columns - group * size), parameters.scale, hasBias ? parameters.bias : parameters.zero,
                        hasBias ? 1 : 0, scaleType.kernelType, target + start)
                }
            }
        }
    }

    /// The parameters of a tile, `[rows, groups]`.
    package func groups(of parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> [GroupParameters] {
        let count = rows.count * groupCount(shape)
        var groups = [GroupParameters](repeating: GroupParameters(scale: 0, zero: 0), count: count)
        groups.withUnsafeMutableBufferPointer { readGroups(parts, rows: rows, shape: shape, into: $0.baseAddress!) }
        return groups
    }

    /// Writes the exact values, scale * (code - zero), which a F32 holds: codes and scales together have fewer than 24 bits.
    package func decodeExactly(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutablePointer<Float>
    ) {
        withCodes(parts, rows: rows, shape: shape) { codes, groups in
            let count = groupCount(shape)
            let size = groupSize ?? shape.columns
            for row in 0..<rows.count {
                for column in 0..<shape.columns {
                    let group = groups[row * count + column / size]
                    let code = Float(codes[row * shape.columns + column])
                    values[row * shape.columns + column] = hasBias ? group.scale * code + group.bias : (code - group.zero) * group.scale
                }
            }
        }
    }

    func withCodes(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape,
        _ body: (UnsafePointer<UInt8>, UnsafePointer<GroupParameters>) -> Void
    ) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: max(1, rows.count * shape.columns)) { codes in
            withUnsafeTemporaryAllocation(of: GroupParameters.self, capacity: max(1, rows.count * groupCount(shape))) { groups in
                guard let codes = codes.baseAddress, let groups = groups.baseAddress else { return }
                readCodes(parts, rows: rows, shape: shape, into: codes)
                readGroups(parts, rows: rows, shape: shape, into: groups)
                body(UnsafePointer(codes), UnsafePointer(groups))
            }
        }
    }
}

extension ScalarType {
    /// The nearest number of this type; F32 for all types that are no narrower floating type.
    package func rounded(_ value: Float) -> Float {
        switch self {
        case .bf16: BFloat16(rounding: value).value
        case .f16: Binary16(rounding: value).value
        default: value
        }
    }

    /// What the kernels call the type.
    var kernelType: Int32 {
        switch self {
        case .bf16: Int32(CK_TYPE_BF16)
        case .f16: Int32(CK_TYPE_F16)
        default: Int32(CK_TYPE_F32)
        }
    }

    /// Whether the type holds a number without rounding it.
    func holds(_ value: Float) -> Bool { value.isFinite && rounded(value) == value }
}

/// Codes of 1 to 8 bits laid one after another in 32-bit words, lowest bits first; a code may straddle two words.
enum BitStream {
    /// Rows of codes out of rows of whole words.
    static func unpackRows(
        _ words: UnsafeRawBufferPointer, bits: Int, wordsPerRow: Int, rows: Int, columns: Int, into codes: UnsafeMutablePointer<UInt8>
    ) {
        guard let source = words.scalars(UInt8.self).baseAddress else { return }
        for row in 0..<rows {
            ck_unpack_codes(KernelLevel.active.rawValue, source + row * wordsPerRow * 4, columns, Int32(bits), codes + row * columns)
        }
    }

    /// Rows of codes into rows of whole words, whose unused bits become zero.
    static func packRows(
        _ codes: UnsafePointer<UInt8>, bits: Int, wordsPerRow: Int, rows: Int, columns: Int, into words: UnsafeMutableRawBufferPointer
    ) {
        guard let target = words.scalars(UInt8.self).baseAddress else { return }
        let used = (columns * bits + 7) / 8
        for row in 0..<rows {
            let start = target + row * wordsPerRow * 4
            ck_pack_codes(KernelLevel.active.rawValue, codes + row * columns, columns, Int32(bits), start)
            for pad in used..<max(used, wordsPerRow * 4) { start[pad] = 0 }
        }
    }

    /// Calls `body` for each of `count` codes. Words of one stream lie `stride` apart.
    @inline(__always)
    static func unpack(
        _ words: UnsafePointer<UInt32>, bits: Int, stride: Int = 1, count: Int, _ body: (_ index: Int, _ code: Int) -> Void
    ) {
        let mask = (UInt64(1) << UInt64(bits)) - 1
        for index in 0..<count {
            let bit = index * bits
            let word = bit / 32
            var window = UInt64(words[word * stride])
            if bit % 32 + bits > 32 { window |= UInt64(words[(word + 1) * stride]) << 32 }
            body(index, Int(window >> UInt64(bit % 32) & mask))
        }
    }

    /// Stores `count` codes; every word that a code touches must be zero before.
    @inline(__always)
    static func pack(_ words: UnsafeMutablePointer<UInt32>, bits: Int, stride: Int = 1, count: Int, _ code: (_ index: Int) -> UInt32) {
        for index in 0..<count {
            let bit = index * bits
            let window = UInt64(code(index)) << UInt64(bit % 32)
            words[bit / 32 * stride] |= UInt32(truncatingIfNeeded: window)
            if bit % 32 + bits > 32 { words[(bit / 32 + 1) * stride] |= UInt32(truncatingIfNeeded: window >> 32) }
        }
    }
}
