import Architectures
import Tensors

/// The part of a source weight that becomes a matrix of its own in another dialect.
package struct WeightView: Sendable, Equatable {
    /// Rows and columns of the source weight.
    package var rows: Range<Int>
    package var columns: Range<Int>
    package var isTransposed: Bool
    /// `[rows, columns]` of the piece.
    package var shape: MatrixShape

    init(rows: Range<Int>, of whole: MatrixShape, isTransposed: Bool) {
        self.rows = rows
        self.isTransposed = isTransposed
        columns = 0..<whole.columns
        shape = isTransposed ? MatrixShape(rows: columns.count, columns: rows.count) : MatrixShape(rows: rows.count, columns: columns.count)
    }

    /// The part of a weight that one of several ranks has.
    package init(_ split: TensorSplit, of whole: MatrixShape) {
        isTransposed = false
        rows = split.axis == 0 ? split.range(of: whole.rows) : 0..<whole.rows
        columns = split.axis == 1 ? split.range(of: whole.columns) : 0..<whole.columns
        shape = MatrixShape(rows: rows.count, columns: columns.count)
    }
}

/// One of `count` equal parts of a tensor along `axis`.
package struct TensorSplit: Sendable, Equatable {
    package var axis: Int
    package var index: Int
    package var count: Int

    package func range(of size: Int) -> Range<Int> { size / count * index..<size / count * (index + 1) }

    /// The dimensions of the part.
    package func dimensions(_ whole: [Int]) -> [Int] {
        var part = whole
        part[axis] /= count
        return part
    }

    /// Where the part's bytes lie in a tensor of these dimensions.
    package func runs(in dimensions: [Int], byteCount: Int) -> ByteRuns {
        let outer = dimensions[..<axis].reduce(1, *)
        let stride = outer == 0 ? 0 : byteCount / outer
        return ByteRuns(start: stride / count * index, length: stride / count, stride: stride, count: outer)
    }
}
