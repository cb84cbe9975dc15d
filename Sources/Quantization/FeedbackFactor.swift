import CKernels
import Runtime
import Tensors

/// R, upper triangular, with R R^T = H + damping: H's Cholesky factor counted from the last column.
///
/// GPTQ works with the upper Cholesky factor U of H^-1, which is R^-1. Its rounding of column i, after the errors of all columns before
/// it have been passed on, is the rounding of w_i + sum_(j < i) (w_j - q_j) R_ji / R_ii (Chee et al., arXiv 2307.13304, theorem 6),
/// so neither an inverse nor updated weights are needed.
package final class FeedbackFactor: @unchecked Sendable {
    package let size: Int
    /// The weight's column at each place.
    package let order: [Int]
    /// Places whose inputs were all zero: their weights do not matter.
    package let dead: [Bool]
    let matrix: UnsafeMutablePointer<Float>
    private let moments: SecondMoments
    let workers: Int

    /// Columns of one step.
    static let block = 96

    /// Factors `moments` in place: they are used up.
    /// - Parameter damping: the share of the mean diagonal that is added to the diagonal.
    package init(_ moments: SecondMoments, damping: Double, workers: Int) throws {
        size = moments.size
        order = moments.order
        self.moments = moments
        self.workers = workers
        matrix = moments.matrix
        try moments.addWaiting()
        dead = (0..<size).map { moments.diagonal($0) == 0 }
        for place in 0..<size where dead[place] { matrix[place * size + place] = 1 }
        // Reference: IST-DASLab/gptq:gptq.py (`fasterquant`), where dead columns have a diagonal of 1 too.
        let mean = (0..<size).reduce(0.0) { $0 + Double(matrix[$1 * size + $1]) } / Double(max(1, size))
        for place in 0..<size { matrix[place * size + place] += Float(damping * mean) }
        try factor()
    }

    private func factor() throws {
        let (width, step) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let level = KernelLevel.active.rawValue
        let size = size
        for end in stride(from: size, to: 0, by: -Self.block) {
            let start = max(0, end - Self.block)
            let columns = end - start
            let depth = size - end
            // Rows start ..< end of what is finished, packed as the left operand.
            let pieces = ceilingDivide(columns, step)
            let finished = try AlignedBuffer(byteCount: max(64, pieces * step * depth * 4))
            try ParallelLoop.run(count: pieces, workers: workers, state: {}) { [self] piece, _ in
                let first = start + piece * step
                ck_pack_tokens(
                    KernelLevel.active.rawValue, matrix + first * size + end, size, min(step, end - first), depth,
                    finished.bytes.assumingMemoryBound(to: Float.self).baseAddress! + piece * step * depth)
            }
            /// [column][row] of H - R R^T for up to 16 rows from `row` on.
            @Sendable func remainder(_ row: Int, _ panel: UnsafeMutablePointer<Float>, _ target: UnsafeMutablePointer<Float>) {
                let height = min(width, end - row)
                let left = finished.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                target.update(repeating: 0, count: pieces * step * width)
                for stretch in TileSequence(rows: depth, step: 512) {
                    ck_pack_f32_panel(matrix + row * size + end + stretch.lowerBound, size, height, stretch.count, panel)
                    for piece in 0..<pieces {
                        ck_matrix_product(
                            level, left + piece * step * depth + stretch.lowerBound * step, min(step, columns - piece * step), panel, 0,
                            stretch.count,
                            target + piece * step * width, width, width, 1)
                    }
                }
                for column in 0..<columns {
                    for n in 0..<width {
                        let value: Float = n < height ? matrix[(row + n) * size + start + column] : 0
                        target[column * width + n] = value - target[column * width + n]
                    }
                }
            }
            let scratchSize = (512 * width + pieces * step * width) * 4
            // The block on the diagonal first, in F64; it must be positive.
            let scratch = try AlignedBuffer(byteCount: scratchSize)
            scratch.withMemory(of: Float.self) { panel in
                for row in stride(from: start, to: end, by: width) {
                    remainder(row, panel, panel + 512 * width)
                    for n in 0..<min(width, end - row) {
                        for column in 0..<columns { matrix[(row + n) * size + start + column] = panel[512 * width + column * width + n] }
                    }
                }
            }
            try factorDiagonal(start..<end)
            try ParallelLoop.run(count: ceilingDivide(start, width), workers: workers) {
                try AlignedBuffer(byteCount: scratchSize)
            } body: { [self] index, scratch in
                let panel = scratch.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let target = panel + 512 * width
                let row = index * width
                remainder(row, panel, target)
                // Rows of the diagonal block that share this group of 16 are not touched: they lie from `start` on.
                ck_solve_rows(level, target, matrix + start * size + start, size, columns)
                for n in 0..<min(width, start - row) {
                    for column in 0..<columns { matrix[(row + n) * size + start + column] = target[column * width + n] }
                }
            }
        }
    }

    /// The reverse Cholesky factor of a block on the diagonal, its upper triangle in place.
    private func factorDiagonal(_ places: Range<Int>) throws {
        for column in places.reversed() {
            let diagonal = Double(matrix[column * size + column]) - dot(column, column, column + 1..<places.upperBound)
            guard diagonal > 0, diagonal.isFinite else { throw NotPositive(column: order[column]) }
            let root = diagonal.squareRoot()
            matrix[column * size + column] = Float(root)
            for row in places.lowerBound..<column {
                matrix[row * size + column] = Float((Double(matrix[row * size + column]) - dot(row, column, column + 1..<places.upperBound)) / root)
            }
        }
    }

    private func dot(_ a: Int, _ b: Int, _ columns: Range<Int>) -> Double {
        var sum = 0.0
        for column in columns { sum += Double(matrix[a * size + column]) * Double(matrix[b * size + column]) }
        return sum
    }

    /// The sum over rows of e^T (H + damping) e, for errors e of some rows of a weight, `[rows, size]`.
    package func outputError(_ errors: [Float], rows: Int) throws -> Double {
        let (width, step) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let level = KernelLevel.active.rawValue
        let blocks = ceilingDivide(rows, width)
        // Errors as [block of rows][place][row], as the right operand.
        let ordered = try AlignedBuffer(byteCount: max(64, blocks * size * width * 4))
        ordered.withMemory(of: Float.self) { target in
            for block in 0..<blocks {
                for place in 0..<size {
                    for n in 0..<width {
                        let row = block * width + n
                        target[(block * size + place) * width + n] = row < rows && !dead[place] ? errors[row * size + order[place]] : 0
                    }
                }
            }
        }
        let pieces = ceilingDivide(size, step)
        let sums = try AlignedBuffer(byteCount: pieces * 8)
        try ParallelLoop.run(count: pieces, workers: workers) { [size] in
            try AlignedBuffer(byteCount: (size * step + step * width) * 4)
        } body: { [self] piece, scratch in
            let first = piece * step
            let columns = min(step, size - first)
            let packed = scratch.bytes.assumingMemoryBound(to: Float.self).baseAddress!
            let result = packed + size * step
            let depth = first + columns
            // R is upper triangular; what lies below its diagonal is not part of it.
            for place in 0..<depth {
                for t in 0..<step { packed[place * step + t] = t < columns && place <= first + t ? matrix[place * size + first + t] : 0 }
            }
            var sum = 0.0
            let errors = ordered.bytes.assumingMemoryBound(to: Float.self).baseAddress!
            for block in 0..<blocks {
                ck_matrix_product(level, packed, columns, errors + block * size * width, 0, depth, result, width, width, 0)
                for index in 0..<columns * width { sum += Double(result[index]) * Double(result[index]) }
            }
            sums.bytes.assumingMemoryBound(to: Double.self)[piece] = sum
        }
        return sums.array(of: Double.self, count: pieces).reduce(0, +)
    }

    /// How much an error at a place weighs when all later columns make up for it as well as they can: R_ii^2, by column of the weight.
    package var importance: [Float] {
        var result = [Float](repeating: 0, count: size)
        for place in 0..<size where !dead[place] {
            let value = matrix[place * size + place]
            result[order[place]] = value * value
        }
        return result
    }
}

/// The damped moments of some inputs are no positive matrix in F32.
package struct NotPositive: Error, Equatable {
    package var column: Int
}
