import Runtime
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// A matrix of F32 activations, one row a token.
///
/// Invariant: concurrent writers touch different elements; nobody reads what another is writing.
package final class Activations: @unchecked Sendable {
    package let rows: Int
    package let columns: Int
    package let base: UnsafeMutablePointer<Float>

    /// - Throws: ``OutOfMemory`` if the system refuses the memory, as it can if a budget is larger than the machine.
    package init(rows: Int, columns: Int) throws(OutOfMemory) {
        // Sizes follow the tokens and weights whose shapes were checked, and were held against the budget before the run.
        // Zeroed by the system as the pages are first touched, by whichever worker touches them.
        let size = rows * columns * MemoryLayout<Float>.stride
        try MemoryBudget.process.take(size)
        guard let memory = calloc(max(1, rows * columns), MemoryLayout<Float>.stride) else {
            MemoryBudget.process.give(size)
            throw OutOfMemory(byteCount: size)
        }
        self.rows = rows
        self.columns = columns
        base = memory.assumingMemoryBound(to: Float.self)
    }

    deinit {
        free(base)
        MemoryBudget.process.give(rows * columns * MemoryLayout<Float>.stride)
    }

    package subscript(row: Int) -> UnsafeMutablePointer<Float> { base + row * columns }

    /// A copy of all values. Pointers into the matrix are for those who hold the matrix in a variable while they use them.
    package var values: [Float] { Array(UnsafeBufferPointer(start: base, count: rows * columns)) }

    /// Rows that hold a NaN or an infinity.
    package var notFiniteRows: Int {
        (0..<rows).count { row in (0..<columns).contains { !self[row][$0].isFinite } }
    }

    func copy() throws(OutOfMemory) -> Activations {
        let copy = try Activations(rows: rows, columns: columns)
        copy.base.update(from: base, count: rows * columns)
        return copy
    }

    /// Rows of this matrix, by index.
    func gathered(_ indices: [Int]) throws(OutOfMemory) -> Activations {
        let result = try Activations(rows: indices.count, columns: columns)
        for (row, index) in indices.enumerated() { result[row].update(from: self[index], count: columns) }
        return result
    }
}
