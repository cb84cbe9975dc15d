/// Runs of rows that cover a weight.
package struct TileSequence: Sequence, IteratorProtocol {
    private var start = 0
    private let rows: Int
    private let step: Int

    package init(rows: Int, step: Int) {
        self.rows = rows
        self.step = Swift.max(step, 1)
    }

    /// The rows of a weight; none if it has no values, however many rows it claims.
    package init(of shape: MatrixShape, step: Int) { self.init(rows: shape.columns == 0 ? 0 : shape.rows, step: step) }

    package mutating func next() -> Range<Int>? {
        guard start < rows else { return nil }
        defer { start += step }
        return start..<Swift.min(start + step, rows)
    }
}
