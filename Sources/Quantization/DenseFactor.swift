import CKernels
import Runtime
import Tensors

/// The factor as a matrix, made from second moments: for inputs that are many.
///
/// Invariant: `matrix` holds size x size values, of which those on and above the diagonal count; nobody writes them after `init`.
package final class DenseFactor: FeedbackFactor, @unchecked Sendable {
    package let size: Int
    package let order: [Int]
    package let dead: [Bool]
    package let workers: Int
    private let matrix: UnsafeMutablePointer<Float>
    private let moments: SecondMoments

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
        for end in stride(from: size, to: 0, by: -FeedbackRows.step) {
            let start = max(0, end - FeedbackRows.step)
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

    package func diagonal(_ place: Int) -> Float { matrix[place * size + place] }

    /// R_ji / R_ii for j < i, both of `places`, as target[j][i]; zero for the others.
    private func near(_ places: Range<Int>, _ target: UnsafeMutablePointer<Float>) {
        let count = places.count
        for j in places {
            for i in places {
                target[(j - places.lowerBound) * count + i - places.lowerBound] = i > j ? matrix[j * size + i] * (1 / diagonal(i)) : 0
            }
        }
    }

    package func round(_ rows: FeedbackRows) throws {
        let (width, step) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let level = KernelLevel.active.rawValue
        let size = size
        // [block of rows][place][row].
        let errors = try AlignedBuffer(byteCount: max(64, rows.blocks * size * width * 4))
        let perItem = 8
        for places in TileSequence(rows: size, step: FeedbackRows.step) {
            let (start, columns) = (places.lowerBound, places.count)
            let pieces = ceilingDivide(columns, step)
            // R_ji / R_ii for the columns of this step and all before it, packed as the left operand.
            let packed = try AlignedBuffer(byteCount: max(64, pieces * step * start * 4))
            let within = try AlignedBuffer(byteCount: columns * columns * 4)
            let inverses = places.map { 1 / diagonal($0) }
            try ParallelLoop.run(count: pieces, workers: workers, state: {}) { [self] piece, _ in
                let target = packed.bytes.assumingMemoryBound(to: Float.self).baseAddress! + piece * step * start
                let first = piece * step
                let width = min(step, columns - first)
                for place in 0..<start {
                    let source = matrix + place * size + start + first
                    for t in 0..<step { target[place * step + t] = t < width ? source[t] * inverses[first + t] : 0 }
                }
            }
            within.withMemory(of: Float.self) { near(places, $0) }
            let importance = squares(places)
            try ParallelLoop.run(count: ceilingDivide(rows.blocks, perItem), workers: workers) {
                try AlignedBuffer(byteCount: perItem * pieces * step * width * 4)
            } body: { item, scratch in
                let mine = item * perItem..<min(rows.blocks, (item + 1) * perItem)
                let targets = scratch.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let far = packed.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let near = within.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let error = errors.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                for block in mine {
                    (targets + (block - mine.lowerBound) * pieces * step * width)
                        .update(from: rows.values(block, from: start), count: columns * width)
                }
                for stretch in TileSequence(rows: start, step: 512) {
                    for piece in 0..<pieces {
                        for block in mine {
                            ck_matrix_product(
                                level, far + piece * step * start + stretch.lowerBound * step, min(step, columns - piece * step),
                                error + (block * size + stretch.lowerBound) * width, 0, stretch.count,
                                targets + ((block - mine.lowerBound) * pieces + piece) * step * width, width, width, 1)
                        }
                    }
                }
                for block in mine {
                    rows.round(
                        block, places, targets: targets + (block - mine.lowerBound) * pieces * step * width, near: near,
                        importance: importance, errors: error + (block * size + start) * width)
                }
            }
        }
    }

    package func outputError(_ errors: [Float], rows: Int) throws -> Double {
        let (width, step) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let level = KernelLevel.active.rawValue
        let blocks = ceilingDivide(rows, width)
        // Errors as [block of rows][place][row], as the right operand.
        let ordered = try AlignedBuffer(byteCount: max(64, blocks * size * width * 4))
        ordered.withMemory(of: Float.self) { target in
            for block in 0..<blocks { place(errors, rows: rows, block, target + block * size * width) }
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
}
