/// Runs of rows that cover a weight.
public struct TileSequence: Sequence, IteratorProtocol {
    private var start = 0
    private let rows: Int
    private let step: Int

    public init(rows: Int, step: Int) {
        self.rows = rows
        self.step = Swift.max(step, 1)
    }

    public mutating func next() -> Range<Int>? {
        guard start < rows else { return nil }
        defer { start += step }
        return start..<Swift.min(start + step, rows)
    }
}
