import Tensors

/// A matrix stored with its inputs in rows, [columns, rows], as transformers saves the experts of gpt-oss: in BF16, or in another type where the
/// whole model was saved so. It is written in BF16.
package struct TransposedDenseLayout: NumberLayout, Equatable {
    /// What the stored matrix is called beside its module: nothing that a file would call a tensor.
    package static let leaf = "<transposed>"

    package let type: ScalarType

    package init(_ type: ScalarType = .bf16) { self.type = type }

    package var name: String { type.rawValue.lowercased() }
    package var isDense: Bool { true }
    /// A tile is a piece of every stored row; pieces of some kilobytes are worth a system call.
    package var preferredRows: Int { 2048 }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [WeightPart(Self.leaf, type, [shape.columns, shape.rows], rows: .along(bits: type.bitWidth))]
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard type != .bf16 else { return Self.transpose(parts[0].scalars(UInt16.self), rows: shape.columns, columns: rows.count, into: values) }
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: rows.count * shape.columns) { stored in
            DenseLayout(type).decode(parts, rows: rows, shape: shape, into: stored)
            Self.transpose(UnsafeBufferPointer(stored), rows: shape.columns, columns: rows.count, into: values)
        }
    }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        withUnsafeTemporaryAllocation(of: Float.self, capacity: rows.count * shape.columns) { stored in
            DenseLayout(type).decodeFloats(parts[0], count: stored.count, into: stored)
            Self.transpose(UnsafeBufferPointer(stored), rows: shape.columns, columns: rows.count, into: target)
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard type == .bf16 else { throw .readOnly }
        Self.transpose(values, rows: rows.count, columns: shape.columns, into: parts[0].scalars(UInt16.self))
    }

    /// In squares that stay in the first-level cache.
    private static func transpose<Value>(
        _ source: UnsafeBufferPointer<Value>, rows: Int, columns: Int, into target: UnsafeMutableBufferPointer<Value>
    ) {
        let side = 32
        for top in stride(from: 0, to: rows, by: side) {
            for left in stride(from: 0, to: columns, by: side) {
                for row in top..<min(top + side, rows) {
                    for column in left..<min(left + side, columns) { target[column * rows + row] = source[row * columns + column] }
                }
            }
        }
    }
}
