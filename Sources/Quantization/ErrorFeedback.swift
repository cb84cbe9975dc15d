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
        let (size, width, order) = (factor.size, Self.width, factor.order)
        let groupSize = grid.groupSize ?? max(1, size)
        groupCount = ceilingDivide(size, groupSize)
        groupAtPlace = try AlignedBuffer(byteCount: max(64, size * 4))
        groupAtPlace.withMemory(of: UInt32.self) { for place in 0..<size { $0[place] = UInt32(order[place] / groupSize) } }
        let blocks = ceilingDivide(weights.rows, width)
        placed = try AlignedBuffer(byteCount: max(64, blocks * size * width * 4))
        try ParallelLoop.run(count: blocks, workers: factor.workers, state: {}) { [placed] block, _ in
            placed.withMemory(of: Float.self) { factor.place(weights.values, rows: weights.rows, block, $0 + block * size * width) }
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
