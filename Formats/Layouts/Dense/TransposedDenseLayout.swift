import Tensors

/// A BF16 matrix stored with its inputs in rows, [columns, rows], as transformers saves the experts of gpt-oss.
package struct TransposedDenseLayout: WeightLayout, Equatable {
    /// What the stored matrix is called beside its module: nothing that a file would call a tensor.
    package static let leaf = "<transposed>"

    package init() {}

    package var name: String { "bf16" }
    package var isDense: Bool { true }
    /// A tile is a piece of every stored row; pieces of some kilobytes are worth a system call.
    package var preferredRows: Int { 2048 }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [WeightPart(Self.leaf, .bf16, [shape.columns, shape.rows], rows: .along(bits: 16))]
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        Self.transpose(parts[0].scalars(UInt16.self), rows: shape.columns, columns: rows.count, into: values)
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        Self.transpose(values, rows: rows.count, columns: shape.columns, into: parts[0].scalars(UInt16.self))
    }

    /// In squares that stay in the first-level cache.
    private static func transpose(_ source: UnsafeBufferPointer<UInt16>, rows: Int, columns: Int, into target: UnsafeMutableBufferPointer<UInt16>) {
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
