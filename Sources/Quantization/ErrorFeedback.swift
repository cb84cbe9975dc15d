import CKernels
import Formats
import Runtime
import Tensors

/// GPTQ: columns are rounded one after another, and the error of each is made up for by those that follow.
///
/// Groups keep the scales that they were given (static groups), whatever the order of the columns.
/// Reference: IST-DASLab/gptq:gptq.py, vllm-project/llm-compressor:modifiers/gptq/gptq_quantize.py.
package struct ErrorFeedback: Sendable {
    private let factor: any FeedbackFactor
    private let grid: IntegerGrid
    private let rows: Int
    /// The weights, [block of rows][place][row].
    private let placed: AlignedBuffer
    /// The group of the column at each place, UInt32.
    private let groupAtPlace: AlignedBuffer
    /// Groups of a row.
    private let groupCount: Int

    private static let width = Int(CK_PANEL)
    private var blocks: Int { ceilingDivide(rows, Self.width) }

    package init(_ factor: any FeedbackFactor, _ weights: WeightRows, on grid: IntegerGrid) throws {
        self.factor = factor
        self.grid = grid
        rows = weights.rows
        let (size, width, order, dead) = (factor.size, Self.width, factor.order, factor.dead)
        let groupSize = grid.groupSize ?? max(1, size)
        groupCount = ceilingDivide(size, groupSize)
        groupAtPlace = try AlignedBuffer(byteCount: max(64, size * 4))
        groupAtPlace.withMemory(of: UInt32.self) { for place in 0..<size { $0[place] = UInt32(order[place] / groupSize) } }
        let blocks = ceilingDivide(weights.rows, width)
        placed = try AlignedBuffer(byteCount: max(64, blocks * size * width * 4))
        try ParallelLoop.run(count: blocks, workers: factor.workers, state: {}) { [placed] block, _ in
            let height = min(width, weights.rows - block * width)
            weights.values.withUnsafeBufferPointer { values in
                placed.withMemory(of: Float.self) { memory in
                    let target = memory + block * size * width
                    for place in 0..<size {
                        let column = order[place], isDead = dead[place]
                        for n in 0..<width { target[place * width + n] = n < height && !isDead ? values[(block * width + n) * size + column] : 0 }
                    }
                }
            }
        }
    }

    /// Codes and parameters of all rows, and for each row the (damped) squared error of its outputs, e^T (H + damping) e: infinite if F32 cannot hold it.
    package struct Rounding: Sendable {
        /// [block of rows][place][row].
        fileprivate let codes: AlignedBuffer
        package fileprivate(set) var groups: [GroupParameters]
        package fileprivate(set) var losses: [Float]
    }

    /// - Parameter groups: the parameters of the rows' groups, `[rows, groups]`.
    package func round(_ groups: [GroupParameters]) throws -> Rounding {
        let (size, width) = (factor.size, Self.width)
        let codes = try AlignedBuffer(byteCount: max(64, blocks * size * width))
        let losses = try AlignedBuffer(byteCount: max(64, blocks * width * 4))
        losses.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        let parameters = try AlignedBuffer(byteCount: max(64, 2 * blocks * groupCount * width * 4))
        let tables = FeedbackRows.Tables(buffer: parameters, groupCount: groupCount)
        for block in 0..<blocks {
            tables.with(block) { scales, biases in
                for group in 0..<groupCount {
                    for n in 0..<width {
                        let chosen = groups[min(block * width + n, rows - 1) * groupCount + group]
                        scales[group * width + n] = chosen.scale
                        biases[group * width + n] = grid.bias(chosen)
                    }
                }
            }
        }
        try factor.round(
            FeedbackRows(
                blocks: blocks, size: size, values: placed, codes: codes, losses: losses, tables: tables, groupAtPlace: groupAtPlace,
                greatest: grid.greatest))
        // What cannot be counted loses against all that can.
        let sums = losses.array(of: Float.self, count: rows).map { $0.isFinite ? $0 : .infinity }
        return Rounding(codes: codes, groups: groups, losses: sums)
    }

    /// Takes from another rounding the rows that err less there.
    package func improve(_ rounding: inout Rounding, by other: Rounding) {
        let (size, width) = (factor.size, Self.width)
        let mine = rounding.codes.bytes.assumingMemoryBound(to: SIMD16<UInt8>.self).baseAddress!
        let theirs = other.codes.bytes.assumingMemoryBound(to: SIMD16<UInt8>.self).baseAddress!
        for block in 0..<blocks {
            // All bits of the rows that err less.
            var better = SIMD16<UInt8>(repeating: 0)
            for row in block * width..<min(rows, (block + 1) * width) where other.losses[row] < rounding.losses[row] {
                better[row - block * width] = 0xFF
                rounding.losses[row] = other.losses[row]
                let parameters = row * groupCount..<(row + 1) * groupCount
                rounding.groups.replaceSubrange(parameters, with: other.groups[parameters])
            }
            guard better.max() > 0 else { continue }
            for place in block * size..<(block + 1) * size { mine[place] = mine[place] & ~better | theirs[place] & better }
        }
        withExtendedLifetime((rounding, other)) {}
    }

    /// The codes with the weight's columns in their own order.
    /// - Throws: ``ErrorsOverflow``.
    package func chosen(_ rounding: Rounding) throws -> QuantizedRows {
        if let row = rounding.losses.firstIndex(where: { !$0.isFinite }) { throw ErrorsOverflow(row: row) }
        let (size, width, rows, order) = (factor.size, Self.width, rows, factor.order)
        let codes = try AlignedBuffer(byteCount: max(64, rows * size))
        let placed = rounding.codes
        try ParallelLoop.run(count: blocks, workers: factor.workers, state: {}) { block, _ in
            placed.withMemory(of: UInt8.self) { placed in
                codes.withMemory(of: UInt8.self) { codes in
                    let source = placed + block * size * width
                    let target = codes + block * width * size
                    let height = min(width, rows - block * width)
                    for place in 0..<size {
                        let column = order[place]
                        for n in 0..<height { target[n * size + column] = source[place * width + n] }
                    }
                }
            }
        }
        return QuantizedRows(codes: codes.array(of: UInt8.self, count: rows * size), groups: rounding.groups)
    }
}

/// The errors of a row's outputs are too large for F32: its targets may be no numbers.
package struct ErrorsOverflow: Error, Equatable {
    package var row: Int
}

/// Rows of a weight that are being rounded, in blocks of 16 rows, with their columns in the order of a factor's places.
package struct FeedbackRows: Sendable {
    /// Scales and biases of blocks of rows, [block of rows][scale, bias][group][row].
    struct Tables: Sendable {
        let buffer: AlignedBuffer
        let groupCount: Int

        func with(_ block: Int, _ body: (_ scales: UnsafeMutablePointer<Float>, _ biases: UnsafeMutablePointer<Float>) -> Void) {
            let count = groupCount * Int(CK_PANEL)
            buffer.withMemory(of: Float.self) { body($0 + 2 * block * count, $0 + (2 * block + 1) * count) }
        }
    }

    /// Places that are rounded with one another's errors before these go on to those that follow.
    static let step = 96

    let blocks: Int
    let size: Int
    /// Weights, [block of rows][place][row].
    let values: AlignedBuffer
    let codes: AlignedBuffer
    let losses: AlignedBuffer
    let tables: Tables
    let groupAtPlace: AlignedBuffer
    let greatest: Float

    /// The weights of some rows from a place on, [place][row].
    func values(_ block: Int, from place: Int) -> UnsafeMutablePointer<Float> {
        values.bytes.assumingMemoryBound(to: Float.self).baseAddress! + (block * size + place) * Int(CK_PANEL)
    }

    /// Rounds some places of a block of rows.
    /// - Parameters:
    ///   - targets: what the weights, and the errors of all places before these, ask for: [place][row].
    ///   - near: R_ji / R_ii for j < i, both of `places`, as near[j][i]; zero for the others.
    ///   - importance: R_ii^2 of these places; zero where a place is dead.
    ///   - errors: what is left over, [place][row].
    func round(
        _ block: Int, _ places: Range<Int>, targets: UnsafeMutablePointer<Float>, near: UnsafePointer<Float>, importance: UnsafePointer<Float>,
        errors: UnsafeMutablePointer<Float>
    ) {
        let width = Int(CK_PANEL)
        tables.with(block) { scales, biases in
            ck_feedback_round(
                KernelLevel.active.rawValue, targets, values(block, from: places.lowerBound), near, places.count, places.count, scales, biases,
                groupAtPlace.bytes.assumingMemoryBound(to: UInt32.self).baseAddress! + places.lowerBound, greatest, importance,
                losses.bytes.assumingMemoryBound(to: Float.self).baseAddress! + block * width, errors,
                codes.bytes.assumingMemoryBound(to: UInt8.self).baseAddress! + (block * size + places.lowerBound) * width)
        }
    }
}

extension FeedbackFactor {
    /// R_ii^2 of some places, by which a miss counts; zero where a place is dead.
    func squares(_ places: Range<Int>) -> [Float] { places.map { dead[$0] ? 0 : diagonal($0) * diagonal($0) } }
}
