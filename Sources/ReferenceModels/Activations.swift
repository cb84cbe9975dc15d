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
    private let storage: AlignedBuffer

    /// A matrix of zeros.
    /// - Throws: ``OutOfMemory`` if the system refuses the memory, as it can if a budget is larger than the machine.
    package convenience init(rows: Int, columns: Int) throws(OutOfMemory) {
        try self.init(unfilled: rows, columns: columns)
        memset(base, 0, rows * columns * MemoryLayout<Float>.stride)
    }

    /// A matrix of which every value is going to be written before any is read.
    init(unfilled rows: Int, columns: Int) throws(OutOfMemory) {
        // Sizes follow the tokens and weights whose shapes were checked, and were held against the budget before the run.
        let size = rows * columns * MemoryLayout<Float>.stride
        storage = try AlignedBuffer(byteCount: size)
        self.rows = rows
        self.columns = columns
        base = storage.bytes.assumingMemoryBound(to: Float.self).baseAddress!
    }

    package subscript(row: Int) -> UnsafeMutablePointer<Float> { base + row * columns }

    /// A copy of all values. Pointers into the matrix are for those who hold the matrix in a variable while they use them.
    package var values: [Float] { Array(UnsafeBufferPointer(start: base, count: rows * columns)) }

    /// Rows that hold a NaN or an infinity.
    package var notFiniteRows: Int {
        (0..<rows).count { row in
            // An infinity times 0 is NaN, and so is all that comes after: no branch a value.
            var sum: SIMD16<Float> = .zero
            for column in stride(from: 0, to: columns - columns % 16, by: 16) {
                sum += UnsafeRawPointer(self[row] + column).loadUnaligned(as: SIMD16<Float>.self) * 0
            }
            var rest = sum.sum()
            for column in (columns - columns % 16)..<columns { rest += self[row][column] * 0 }
            return rest != 0
        }
    }

    func copy() throws(OutOfMemory) -> Activations {
        let copy = try Activations(unfilled: rows, columns: columns)
        copy.base.update(from: base, count: rows * columns)
        return copy
    }

    /// Rows of this matrix, by index.
    func gathered(_ indices: [Int]) throws(OutOfMemory) -> Activations {
        let result = try Activations(unfilled: indices.count, columns: columns)
        for (row, index) in indices.enumerated() { result[row].update(from: self[index], count: columns) }
        return result
    }
}
