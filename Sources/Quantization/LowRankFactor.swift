import CKernels
import Runtime
import Tensors

/// The factor of inputs that are few: with r tokens and n columns H is a diagonal and a matrix of rank r, and so is what feedback needs of R. An
/// expert of many sees a few hundred tokens, a column of a wide model thousands of other columns.
///
/// Let X hold the inputs, a column x_i of r values for each place i, and L the damping, so that H + damping = L + X^T X. With the places
/// from i + 1 on eliminated, what is left of it for the others is L + X^T S_i X, where S_i = (1 + sum_(j > i) x_j x_j^T / L_j)^-1 (Woodbury). Hence
/// R_ii^2 = L_i + x_i^T S_i x_i and R_ji = x_j^T S_i x_i / R_ii, and the errors e_j of all places before i ask of i
///
///     sum_(j < i) e_j R_ji / R_ii = (sum_(j < i) e_j x_j)^T g_i    with g_i = S_i x_i / R_ii^2:
///
/// r sums a row are carried along instead of all errors, 4 n r operations a row instead of n^2. S_(i-1) = S_i - R_ii^2 g_i g_i^T. Places go by steps, whose
/// matrices take the part of x_i, R_ii and g_i; in F64, since the eigenvalues of S reach from 1 down to what damping is to the largest inputs.
package final class LowRankFactor: FeedbackFactor {
    package let size: Int
    package let order: [Int]
    package let dead: [Bool]
    package let workers: Int
    private let inputs: OrderedInputs
    /// Added to the diagonal of H: the damping, and 1 where a place is dead.
    private let damping: [Double]
    private let diagonals: [Float]
    /// g, [block of 24 places][token][place]: left operands as well.
    private let far: AlignedBuffer
    /// R_ji / R_ii of the places of each step, as ``FeedbackRows`` takes them; a step's at `step` values for each place before it.
    private let nearby: AlignedBuffer

    /// Whether this is less work than ``DenseFactor``: for wide weights feedback takes 4 r / n of the time, and making the factor 18 n r^2 operations
    /// (of F64, counted as the four and a half of F32 that take as long) instead of n^3 / 3 + n^2 r.
    package static func pays(tokens: Int, columns: Int) -> Bool { tokens > 0 && tokens * 6 <= columns }

    /// - Parameter damping: the share of the mean diagonal that is added to the diagonal.
    package init(_ inputs: OrderedInputs, damping: Double, workers: Int) throws {
        self.inputs = inputs
        self.workers = workers
        order = inputs.order
        size = inputs.order.count
        let (size, rank, block) = (size, inputs.count, Int(CK_TOKEN_BLOCK))
        let tokenBlocks = ceilingDivide(rank, block)
        var squares = [Double](repeating: 0, count: size)
        inputs.blocks.withMemory(of: Float.self) { x in
            for place in 0..<size {
                for part in 0..<tokenBlocks {
                    for t in 0..<block {
                        let value = Double(x[(part * size + place) * block + t])
                        squares[place] += value * value
                    }
                }
            }
        }
        // The sums of F32 that rounding carries must hold them.
        if let place = squares.firstIndex(where: { !($0 < Double(Float.greatestFiniteMagnitude)) }) { throw NotPositive(column: order[place]) }
        let dead = squares.map { $0 == 0 }
        self.dead = dead
        // Reference: IST-DASLab/gptq:gptq.py (`fasterquant`), where dead columns have a diagonal of 1 too.
        let mean = squares.reduce(0) { $0 + ($1 == 0 ? 1 : $1) } / Double(max(1, size))
        self.damping = dead.map { damping * mean + ($0 ? 1 : 0) }
        far = try AlignedBuffer(byteCount: max(64, ceilingDivide(size, block) * rank * block * 4))
        nearby = try AlignedBuffer(byteCount: max(64, ceilingDivide(size, FeedbackRows.step) * FeedbackRows.step * FeedbackRows.step * 4))
        diagonals = try Elimination(inputs, squares: squares, damping: self.damping, workers: workers).run(far, nearby)
    }

    package func diagonal(_ place: Int) -> Float { diagonals[place] }

    private func nearby(_ start: Int) -> UnsafeMutablePointer<Float> {
        nearby.bytes.assumingMemoryBound(to: Float.self).baseAddress! + start * FeedbackRows.step
    }

    package func round(_ rows: FeedbackRows) throws {
        let (width, block, step) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK), FeedbackRows.step)
        let (size, rank, level) = (size, inputs.count, KernelLevel.active.rawValue)
        let tokenBlocks = ceilingDivide(rank, block)
        let sumCount = tokenBlocks * block * width
        let perItem = 8
        let importance = squares(0..<size)
        try ParallelLoop.run(count: ceilingDivide(rows.blocks, perItem), workers: workers) {
            try AlignedBuffer(byteCount: perItem * (sumCount + 2 * step * width) * 4)
        } body: { [self] item, scratch in
            let mine = item * perItem..<min(rows.blocks, (item + 1) * perItem)
            // For each block of rows: sum of e x, [token][row]; targets and errors of a step, [place][row].
            let sums = scratch.bytes.assumingMemoryBound(to: Float.self).baseAddress!
            let targets = sums + perItem * sumCount
            let errors = targets + perItem * step * width
            sums.update(repeating: 0, count: mine.count * sumCount)
            let x = inputs.blocks.bytes.assumingMemoryBound(to: Float.self).baseAddress!
            let g = far.bytes.assumingMemoryBound(to: Float.self).baseAddress!
            for places in TileSequence(rows: size, step: step) {
                let (start, columns) = (places.lowerBound, places.count)
                for index in 0..<mine.count {
                    (targets + index * step * width).update(from: rows.values(mine.lowerBound + index, from: start), count: columns * width)
                }
                for first in stride(from: 0, to: columns, by: block) {
                    for index in 0..<mine.count {
                        ck_matrix_product(
                            level, g + (start + first) * rank, min(block, columns - first), sums + index * sumCount, 0, rank,
                            targets + (index * step + first) * width, width, width, 1)
                    }
                }
                importance.withUnsafeBufferPointer { importance in
                    for index in 0..<mine.count {
                        rows.round(
                            mine.lowerBound + index, places, targets: targets + index * step * width, near: nearby(start),
                            importance: importance.baseAddress! + start, errors: errors + index * step * width)
                    }
                }
                for part in 0..<tokenBlocks {
                    for index in 0..<mine.count {
                        ck_matrix_product(
                            level, x + (part * size + start) * block, block, errors + index * step * width, 0, columns,
                            sums + index * sumCount + part * block * width, width, width, 1)
                    }
                }
            }
        }
    }

    package func outputError(_ errors: [Float], rows: Int) throws -> Double {
        let (size, width, block, level) = (size, Int(CK_PANEL), Int(CK_TOKEN_BLOCK), KernelLevel.active.rawValue)
        let tokenBlocks = ceilingDivide(inputs.count, block)
        let totals = try AlignedBuffer(byteCount: max(64, ceilingDivide(rows, width) * 8))
        try ParallelLoop.run(count: ceilingDivide(rows, width), workers: workers) {
            try AlignedBuffer(byteCount: (size + tokenBlocks * block) * width * 4)
        } body: { [self] index, scratch in
            // Errors, [place][row]; sums of e x, [token][row].
            let ordered = scratch.bytes.assumingMemoryBound(to: Float.self).baseAddress!
            let sums = ordered + size * width
            sums.update(repeating: 0, count: tokenBlocks * block * width)
            var total = 0.0
            place(errors, rows: rows, index, ordered)
            for place in 0..<size {
                for n in 0..<width { total += damping[place] * Double(ordered[place * width + n]) * Double(ordered[place * width + n]) }
            }
            inputs.blocks.withMemory(of: Float.self) { x in
                for places in TileSequence(rows: size, step: 512) {
                    for part in 0..<tokenBlocks {
                        ck_matrix_product(
                            level, x + (part * size + places.lowerBound) * block, block, ordered + places.lowerBound * width, 0, places.count,
                            sums + part * block * width, width, width, 1)
                    }
                }
            }
            for sum in UnsafeBufferPointer(start: sums, count: tokenBlocks * block * width) { total += Double(sum) * Double(sum) }
            totals.bytes.assumingMemoryBound(to: Double.self)[index] = total
        }
        return totals.array(of: Double.self, count: ceilingDivide(rows, width)).reduce(0, +)
    }
}

/// Places eliminated from the last one on, a step at a time: J are the places of the step, S is what those after it leave.
///
/// C = L_J + X_J^T S X_J is what is left of H for J, C = R_J R_J^T. With G = S X_J R_J^-T, R_ij = x_i^T G_j for i before J, and S loses G G^T.
private struct Elimination {
    let inputs: OrderedInputs
    /// The diagonals of X^T X and of L.
    let squares, damping: [Double]
    let workers: Int
    let rank: Int
    /// Distance of rows of `rank` values.
    let across: Int
    let s, x, transposed, product, corner: AlignedBuffer

    private static let step = FeedbackRows.step

    init(_ inputs: OrderedInputs, squares: [Double], damping: [Double], workers: Int) throws {
        self.inputs = inputs
        self.squares = squares
        self.damping = damping
        self.workers = workers
        rank = inputs.count
        across = ceilingDivide(rank, 16) * 16
        func doubles(_ count: Int) throws -> AlignedBuffer { try AlignedBuffer(byteCount: max(64, count * 8)) }
        s = try doubles(rank * across)
        x = try doubles(rank * Self.step)
        transposed = try doubles(rank * Self.step)
        product = try doubles(Self.step * across)
        corner = try doubles(Self.step * Self.step)
    }

    private func pointer(_ buffer: AlignedBuffer) -> UnsafeMutablePointer<Double> { buffer.bytes.assumingMemoryBound(to: Double.self).baseAddress! }

    /// Fills in g and what is near, as ``LowRankFactor`` keeps them.
    /// - Returns: R_ii of all places.
    func run(_ far: AlignedBuffer, _ nearby: AlignedBuffer) throws -> [Float] {
        let size = inputs.order.count
        var diagonals = [Float](repeating: 0, count: size)
        let s = pointer(s)
        s.update(repeating: 0, count: rank * across)
        for token in 0..<rank { s[token * across + token] = 1 }
        for places in TileSequence(rows: size, step: Self.step).reversed() {
            gather(places)
            try project(places.count)
            try factorCorner(places)
            solve(places.count)
            store(places, far, nearby, &diagonals)
            try shrink(places.count)
        }
        return diagonals
    }

    /// X_J, [token][place].
    private func gather(_ places: Range<Int>) {
        let block = Int(CK_TOKEN_BLOCK), x = pointer(x), size = inputs.order.count
        inputs.blocks.withMemory(of: Float.self) { source in
            for token in 0..<rank {
                let row = source + token / block * size * block + token % block
                for (index, place) in places.enumerated() { x[token * Self.step + index] = Double(row[place * block]) }
            }
        }
    }

    /// P = S X_J as [place][token]; C as [place][place].
    private func project(_ count: Int) throws {
        let level = KernelLevel.active.rawValue
        let (x, product, transposed, corner) = (pointer(x), pointer(product), pointer(transposed), pointer(corner))
        product.update(repeating: 0, count: count * across)
        let part = 16
        let (rank, across) = (rank, across)
        nonisolated(unsafe) let (left, right, target) = (x, pointer(s), product)
        try ParallelLoop.run(count: ceilingDivide(count, part), workers: workers, state: {}) { index, _ in
            let first = index * part
            ck_double_product(
                level, left + first, Self.step, right, across, target + first * across, across, rank, min(part, count - first), rank, 1)
        }
        for token in 0..<rank { for place in 0..<count { transposed[token * Self.step + place] = product[place * across + token] } }
        corner.update(repeating: 0, count: Self.step * Self.step)
        ck_double_product(level, x, Self.step, transposed, Self.step, corner, Self.step, rank, count, count, 1)
    }

    /// R_J on and above the diagonal of `corner`.
    private func factorCorner(_ places: Range<Int>) throws {
        let corner = pointer(corner), step = Self.step
        for place in places { corner[(place - places.lowerBound) * (step + 1)] += damping[place] }
        for last in (0..<places.count).reversed() {
            let square = corner[last * step + last]
            // Where no damping is left of a column but what rounding made up, nothing determines its errors.
            guard square > 1e-12 * (squares[places.lowerBound + last] + damping[places.lowerBound + last]), square.isFinite else {
                throw NotPositive(column: inputs.order[places.lowerBound + last])
            }
            let root = square.squareRoot()
            corner[last * step + last] = root
            for row in 0..<last { corner[row * step + last] /= root }
            for row in 0..<last {
                let value = corner[row * step + last]
                for column in row..<last { corner[row * step + column] -= value * corner[column * step + last] }
            }
        }
    }

    /// G^T in place of P^T.
    private func solve(_ count: Int) {
        let (corner, product) = (pointer(corner), pointer(product))
        for last in (0..<count).reversed() {
            let solved = product + last * across
            let diagonal = corner[last * Self.step + last]
            for token in 0..<rank { solved[token] /= diagonal }
            for place in 0..<last {
                let value = corner[place * Self.step + last]
                let other = product + place * across
                for token in 0..<rank { other[token] -= value * solved[token] }
            }
        }
    }

    private func store(_ places: Range<Int>, _ far: AlignedBuffer, _ nearby: AlignedBuffer, _ diagonals: inout [Float]) {
        let (corner, product, block, count) = (pointer(corner), pointer(product), Int(CK_TOKEN_BLOCK), places.count)
        let near = nearby.bytes.assumingMemoryBound(to: Float.self).baseAddress! + places.lowerBound * Self.step
        let far = far.bytes.assumingMemoryBound(to: Float.self).baseAddress!
        for (index, place) in places.enumerated() {
            let diagonal = corner[index * Self.step + index]
            diagonals[place] = Float(diagonal)
            for earlier in 0..<count { near[earlier * count + index] = earlier < index ? Float(corner[earlier * Self.step + index] / diagonal) : 0 }
            let target = far + place / block * block * rank + place % block
            for token in 0..<rank { target[token * block] = Float(product[index * across + token] / diagonal) }
        }
    }

    /// S - G G^T.
    private func shrink(_ count: Int) throws {
        let level = KernelLevel.active.rawValue
        let (rank, across) = (rank, across)
        let part = 16
        nonisolated(unsafe) let (product, s) = (pointer(product), pointer(s))
        try ParallelLoop.run(count: ceilingDivide(rank, part), workers: workers, state: {}) { index, _ in
            let first = index * part
            ck_double_product(
                level, product + first, across, product, across, s + first * across, across, count, min(part, rank - first), rank, -1)
        }
    }
}
