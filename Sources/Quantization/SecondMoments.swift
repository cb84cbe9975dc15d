import CKernels
import Runtime
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Rows of inputs that are somebody else's memory, alive while they are being looked at.
package struct InputRows: @unchecked Sendable {
    package let base: UnsafePointer<Float>
    package let rows: Int
    package let columns: Int

    package init(base: UnsafePointer<Float>, rows: Int, columns: Int) {
        self.base = base
        self.rows = rows
        self.columns = columns
    }
}

/// Sums over the inputs of a weight, column by column, in F64.
package struct InputMoments: Sendable, Equatable {
    package var count = 0
    package var squares: [Double]
    package var magnitudes: [Double]

    package init(columns: Int) {
        squares = [Double](repeating: 0, count: columns)
        magnitudes = squares
    }

    package mutating func add(_ input: InputRows) {
        count += input.rows
        for row in 0..<input.rows {
            let x = input.base + row * input.columns
            for column in 0..<input.columns {
                let value = Double(x[column])
                squares[column] += value * value
                magnitudes[column] += abs(value)
            }
        }
    }

    /// The mean of x^2; ones where no input was seen.
    package var meanSquares: [Float] { count == 0 ? squares.map { _ in 1 } : squares.map { Float($0 / Double(count)) } }

    /// Columns by falling x^2, the lower number first among equals: GPTQ's activation order.
    package var activationOrder: [Int] {
        squares.indices.sorted { squares[$0] != squares[$1] ? squares[$0] > squares[$1] : $0 < $1 }
    }
}

/// Sums of x_i x_j over the inputs of a weight, its columns in an order of one's choice: the upper triangle of the (halved) Hessian
/// of the squared error of the outputs.
///
/// Invariant: `matrix` holds size x size values. Concurrent writers have different tiles.
package final class SecondMoments: @unchecked Sendable {
    package let size: Int
    /// The weight's column at each place.
    package let order: [Int]
    package private(set) var count = 0
    let matrix: UnsafeMutablePointer<Float>
    private let workers: Int
    /// Tokens whose products are summed by themselves.
    static let stretch = 512
    /// Inputs that wait for their stretch to be full, columns in order and padded to whole blocks; and room for them as panels.
    private let ordered: AlignedBuffer
    private let panels: AlignedBuffer
    private let across: Int
    private var waiting = 0

    package static func byteCount(_ size: Int) -> Int { size * size * MemoryLayout<Float>.stride }

    package init(order: [Int], workers: Int) throws(OutOfMemory) {
        size = order.count
        self.order = order
        self.workers = workers
        let unit = Int(CK_PANEL) * Int(CK_TOKEN_BLOCK)
        across = ceilingDivide(size, unit) * unit
        ordered = try AlignedBuffer(byteCount: Self.stretch * across * 4)
        panels = try AlignedBuffer(byteCount: Self.stretch * across * 4)
        // Last, so that nothing that fails afterwards leaves it behind.
        try MemoryBudget.process.take(Self.byteCount(size))
        guard let memory = calloc(max(1, size * size), MemoryLayout<Float>.stride) else {
            MemoryBudget.process.give(Self.byteCount(size))
            throw OutOfMemory(byteCount: Self.byteCount(size))
        }
        matrix = memory.assumingMemoryBound(to: Float.self)
    }

    deinit {
        free(matrix)
        MemoryBudget.process.give(Self.byteCount(size))
    }

    /// Adds inputs, token after token: the sums are the same however the tokens are cut into pieces.
    ///
    /// Products of 512 tokens are summed by themselves and then added, so that rounding errors stay those of short sums.
    package func add(_ input: InputRows) throws {
        count += input.rows
        var done = 0
        while done < input.rows {
            let rows = min(input.rows - done, Self.stretch - waiting)
            let (first, start) = (done, waiting)
            // The columns in order, so that both operands of the product are plain runs of columns.
            try ParallelLoop.run(count: ceilingDivide(rows, 32), workers: workers, state: {}) { [order, size, across, ordered] part, _ in
                ordered.withMemory(of: Float.self) { target in
                    for row in part * 32..<min(rows, (part + 1) * 32) {
                        let (x, y) = (input.base + (first + row) * input.columns, target + (start + row) * across)
                        for place in 0..<size { y[place] = x[order[place]] }
                        for place in size..<across { y[place] = 0 }
                    }
                }
            }
            waiting += rows
            done += rows
            if waiting == Self.stretch { try addWaiting() }
        }
    }

    /// Adds the products of the tokens that are waiting.
    func addWaiting() throws {
        guard waiting > 0 else { return }
        let (width, block) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let level = KernelLevel.active.rawValue
        let depth = waiting
        waiting = 0
        try ParallelLoop.run(count: across / width, workers: workers, state: {}) { [across, ordered, panels] panel, _ in
            ordered.withMemory(of: Float.self) { source in
                panels.withMemory(of: Float.self) { target in
                    ck_pack_columns(source + panel * width, across, depth, width, width, target + panel * width * depth)
                }
            }
        }
        try ParallelLoop.run(count: ceilingDivide(size, block), workers: workers) {
            try AlignedBuffer(byteCount: (depth * block + block * width) * 4)
        } body: { [self] index, scratch in
            ordered.withMemory(of: Float.self) { source in
                panels.withMemory(of: Float.self) { panel in
                    scratch.withMemory(of: Float.self) { tokens in
                        let sums = tokens + depth * block
                        let first = index * block
                        let height = min(block, size - first)
                        ck_pack_columns(source + first, across, depth, height, block, tokens)
                        for column in stride(from: first / width * width, to: size, by: width) {
                            let columns = min(width, size - column)
                            ck_matrix_product(level, tokens, height, panel + column * depth, 0, depth, sums, width, columns, 0)
                            for t in 0..<height {
                                let target = matrix + (first + t) * size + column
                                for n in 0..<columns { target[n] += sums[t * width + n] }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The sum of x_i^2 at a place, over all tokens but those that wait.
    func diagonal(_ place: Int) -> Float { matrix[place * size + place] }
}
