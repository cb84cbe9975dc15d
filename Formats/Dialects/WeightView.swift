import Architectures
import Tensors

/// The part of a source weight that becomes a matrix of its own in another dialect.
package struct WeightView: Sendable, Equatable {
    /// Rows and columns of the source weight.
    package var rows: Range<Int>
    package var columns: Range<Int>
    package var isTransposed: Bool
    /// How far the rows of the piece lie apart in the source: 2 for one of two matrices whose rows are interleaved.
    package private(set) var step = 1
    /// Rows of a head, where the halves of every head stand pair by pair in the piece: its rows 0, 1, 2, ... are the source's 0, n/2, 1, n/2 + 1, ...
    package var headRows: Int?
    /// `[rows, columns]` of the piece.
    package var shape: MatrixShape

    init(rows: Range<Int>, of whole: MatrixShape, isTransposed: Bool) {
        self.rows = rows
        self.isTransposed = isTransposed
        columns = 0..<whole.columns
        shape = isTransposed ? MatrixShape(rows: columns.count, columns: rows.count) : MatrixShape(rows: rows.count, columns: columns.count)
    }

    /// Every `step`th row, from the `first` on, of a weight whose rows are a multiple.
    init(first: Int, step: Int, of whole: MatrixShape) {
        isTransposed = false
        self.step = step
        rows = first..<whole.rows
        columns = 0..<whole.columns
        shape = MatrixShape(rows: whole.rows / step, columns: whole.columns)
    }

    /// All rows of a weight, the halves of every `headRows` of them pair by pair.
    init(pairingHalvesOf headRows: Int, of whole: MatrixShape) {
        isTransposed = false
        self.headRows = headRows
        rows = 0..<whole.rows
        columns = 0..<whole.columns
        shape = whole
    }

    /// Whether the piece is rows of the weight that lie apart or in another order: its inputs are the weight's.
    package var picksRows: Bool { step > 1 || headRows != nil }

    /// Pieces are cut at multiples of so many rows.
    package var rowAlignment: Int { headRows ?? 1 }

    /// The row of the source that a row of the piece is.
    package func row(_ index: Int) -> Int {
        guard let headRows else { return rows.lowerBound + index * step }
        let inside = index % headRows
        return index - inside + inside % 2 * (headRows / 2) + inside / 2
    }

    /// Rows of the source from the first to the last that some rows of the piece are; the piece is cut as ``rowAlignment`` says.
    package func span(of part: Range<Int>) -> Range<Int> {
        if headRows != nil { return part }
        let first = rows.lowerBound + part.lowerBound * step
        return first..<(part.isEmpty ? first : first + (part.count - 1) * step + 1)
    }

    /// The dimensions of the piece; a vector stays one.
    package func dimensions(of whole: [Int]) -> [Int] { whole.count == 1 ? [shape.rows] : [shape.rows, shape.columns] }

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
