import Tensors

// What the rest of the house asks of a layout without knowing which it is.

/// A layout whose reference computes values in F32: BF16, in which values pass between coded layouts, may hold less than they are.
package protocol WideLayout: WeightLayout {
    /// Whether rounding to BF16 may change its values.
    var exceedsBF16: Bool { get }

    /// Whether they are not rounded on the way to codes either. Numbers and ggml's blocks are not; codes whose peers quantize from a BF16 model are.
    var staysWideForCodes: Bool { get }

    /// The values of some rows as F32 (F64 is rounded), row after row. Rounded to BF16 they are what ``WeightLayout/decode`` gives.
    func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>)
}

/// A layout that takes F32 values as they are: numbers of another type than BF16, and codes whose peer chooses them from F32.
package protocol WideTarget: WeightLayout {
    /// Stores the values of a tile, or chooses its codes.
    /// - Parameter importance: how much the error of each column counts, where there is a choice; nil: all alike.
    func encode(
        floats: UnsafeBufferPointer<Float>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?,
        into parts: [UnsafeMutableRawBufferPointer]) throws(EncodingFault)
}

/// Stored numbers, and ggml's blocks, which its programs take for F32 numbers whatever they do with them: widths that no conversion rounds to BF16
/// but for a target that has BF16 values.
package protocol NumberLayout: WideLayout {
    var type: ScalarType { get }
}

/// One stored number a value in the order of the values, without scales.
package protocol UncodedLayout: NumberLayout {
    /// The stored values as F32 (F64 is rounded).
    func decodeFloats(_ bytes: UnsafeRawBufferPointer, count: Int, into target: UnsafeMutableBufferPointer<Float>)

    /// Converts straight from another type without passing through BF16: every value is rounded once.
    func convert(
        from source: any UncodedLayout, _ bytes: UnsafeRawBufferPointer, count: Int, rows: Range<Int>, into target: UnsafeMutableRawBufferPointer
    ) throws(EncodingFault)
}

/// FP8 codes, one byte each in the order of the values, with a scale for each block of rows x columns: what FP8 products multiply as it is stored.
package protocol ScaledBlockLayout: WeightLayout {
    var blockRows: Int { get }
    var blockColumns: Int { get }
    var scaleType: ScalarType { get }
}

extension WideLayout {
    package var staysWideForCodes: Bool { self is any NumberLayout }
}

extension WeightLayout {
    /// Whether the layout has values that BF16 would round.
    package var exceedsBF16: Bool { (self as? any WideLayout)?.exceedsBF16 == true }

    /// The values of some rows as F32: as they are, or the BF16 ones widened.
    package func decodeWidest(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        if let wide = self as? any WideLayout, wide.exceedsBF16 { return wide.decodeFloats(parts, rows: rows, shape: shape, into: target) }
        guard let base = target.baseAddress else { return }
        // The BF16 values in the second half of their room, widened from its beginning: no value is overwritten before it is read.
        let count = rows.count * shape.columns
        let narrow = UnsafeMutableRawPointer(base).advanced(by: count * 2).assumingMemoryBound(to: UInt16.self)
        decode(parts, rows: rows, shape: shape, into: UnsafeMutableBufferPointer(start: narrow, count: count))
        for index in 0..<count { base[index] = Float(bitPattern: UInt32(narrow[index]) << 16) }
    }
}

extension NumberLayout {
    package var exceedsBF16: Bool { type != .bf16 }
}

extension UncodedLayout {
    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) { decodeFloats(parts[0], count: rows.count * shape.columns, into: target) }
}

extension WeightLayout {
    /// The type of a dense weight; nil where numbers are coded.
    package var denseType: ScalarType? { (self as? any UncodedLayout)?.type }

    /// Whether the stored values are the very BF16 values.
    package var isPlainBF16: Bool { denseType == .bf16 }
}

extension WeightLayout where Self == DenseLayout {
    /// Values of one dense type.
    package static func dense(_ type: ScalarType) -> DenseLayout { DenseLayout(type) }
}
