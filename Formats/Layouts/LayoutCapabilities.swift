import Tensors

// What the rest of the house asks of a layout without knowing which it is.

/// Stored numbers, which may be wider than the BF16 values that everything coded has.
package protocol NumberLayout: WeightLayout {
    var type: ScalarType { get }

    /// The values of some rows as F32 (F64 is rounded), row after row.
    func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>)
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
