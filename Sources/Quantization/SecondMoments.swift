import CKernels
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Rows of inputs that are somebody else's memory, alive while they are being looked at.
public struct InputRows: @unchecked Sendable {
    public let base: UnsafePointer<Float>
    public let rows: Int
    public let columns: Int

    public init(base: UnsafePointer<Float>, rows: Int, columns: Int) {
        self.base = base
        self.rows = rows
        self.columns = columns
    }
}

/// Sums over the inputs of a weight, column by column, in F64.
public struct InputMoments: Sendable, Equatable {
    public var count = 0
    public var squares: [Double]
    public var magnitudes: [Double]

    public init(columns: Int) {
        squares = [Double](repeating: 0, count: columns)
        magnitudes = squares
    }

    public mutating func add(_ input: InputRows) {
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
    public var meanSquares: [Float] { count == 0 ? squares.map { _ in 1 } : squares.map { Float($0 / Double(count)) } }

    /// Columns by falling x^2, the lower number first among equals: GPTQ's activation order.
    public var activationOrder: [Int] {
        squares.indices.sorted { squares[$0] != squares[$1] ? squares[$0] > squares[$1] : $0 < $1 }
    }
}

/// Sums of x_i x_j over the inputs of a weight, its columns in an order of one's choice: the upper triangle of the (halved) Hessian
/// of the squared error of the outputs.
///
/// Invariant: `matrix` holds size x size values. Concurrent writers have different tiles.
public final class SecondMoments: @unchecked Sendable {
    public let size: Int
    /// The weight's column at each place.
    public let order: [Int]
    public private(set) var count = 0
    let matrix: UnsafeMutablePointer<Float>
    private let workers: Int

    public static func byteCount(_ size: Int) -> Int { size * size * MemoryLayout<Float>.stride }

    public init(order: [Int], workers: Int) throws(OutOfMemory) {
        size = order.count
        self.order = order
        self.workers = workers
        guard let memory = calloc(max(1, size * size), MemoryLayout<Float>.stride) else { throw OutOfMemory(byteCount: Self.byteCount(size)) }
        matrix = memory.assumingMemoryBound(to: Float.self)
    }

    deinit { free(matrix) }

    /// Adds inputs, token after token: the sums are the same however the tokens are cut into pieces.
    public func add(_ input: InputRows) throws {
        count += input.rows
        let (width, block) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let level = KernelLevel.active.rawValue
        for stretch in TileSequence(rows: input.rows, step: 512) {
            let depth = stretch.count
            let across = ceilingDivide(size, block * width) * block * width
            // The stretch with its columns in order, so that both operands are plain runs of columns.
            let ordered = AlignedBuffer(byteCount: depth * across * 4)
            let panels = AlignedBuffer(byteCount: depth * across * 4)
            try ParallelLoop.run(count: ceilingDivide(depth, 32), workers: workers, state: {}) { [order, size] part, _ in
                let target = ordered.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                for row in part * 32..<min(depth, (part + 1) * 32) {
                    let (x, y) = (input.base + (stretch.lowerBound + row) * input.columns, target + row * across)
                    for place in 0..<size { y[place] = x[order[place]] }
                    for place in size..<across { y[place] = 0 }
                }
            }
            try ParallelLoop.run(count: across / width, workers: workers, state: {}) { panel, _ in
                let (source, target) = (
                    ordered.bytes.assumingMemoryBound(to: Float.self).baseAddress!, panels.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                )
                ck_pack_columns(source + panel * width, across, depth, width, width, target + panel * width * depth)
            }
            try ParallelLoop.run(count: ceilingDivide(size, block), workers: workers) {
                AlignedBuffer(byteCount: depth * block * 4)
            } body: { [self] index, packed in
                let (source, panel) = (
                    ordered.bytes.assumingMemoryBound(to: Float.self).baseAddress!, panels.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                )
                let tokens = packed.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let first = index * block
                let height = min(block, size - first)
                ck_pack_columns(source + first, across, depth, height, block, tokens)
                for column in stride(from: first / width * width, to: size, by: width) {
                    ck_matrix_product(
                        level, tokens, height, panel + column * depth, depth, matrix + first * size + column, size, min(width, size - column), 1)
                }
            }
        }
    }

    /// The sum of x_i^2 at a place.
    public func diagonal(_ place: Int) -> Float { matrix[place * size + place] }
}
