import CKernels
import Formats
import Runtime
import Tensors

/// GPTQ: columns are rounded one after another, and the error of each is made up for by those that follow.
///
/// Groups keep the scales that they were given (static groups), whatever the order of the columns.
/// Reference: IST-DASLab/gptq:gptq.py, vllm-project/llm-compressor:modifiers/gptq/gptq_quantize.py.
package struct ErrorFeedback: Sendable {
    let factor: FeedbackFactor

    package init(_ factor: FeedbackFactor) { self.factor = factor }

    /// - Parameters:
    ///   - groups: the parameters of the rows' groups, `[rows, groups]`.
    /// - Returns: the codes, and for each row the (damped) squared error of its outputs: e^T (H + damping) e.
    package func round(_ weights: WeightRows, on grid: IntegerGrid, groups: [GroupParameters]) throws -> (chosen: QuantizedRows, losses: [Float]) {
        let (width, step) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let size = factor.size
        let blocks = ceilingDivide(weights.rows, width)
        let level = KernelLevel.active.rawValue
        let groupSize = grid.groupSize ?? max(1, size)
        let count = ceilingDivide(size, groupSize)
        // Errors and weights as [block of rows][place][row].
        let errors = try AlignedBuffer(byteCount: blocks * size * width * 4)
        let ordered = try AlignedBuffer(byteCount: blocks * size * width * 4)
        let codes = try AlignedBuffer(byteCount: max(64, weights.rows * size))
        try ParallelLoop.run(count: blocks, workers: factor.workers, state: {}) { [factor] block, _ in
            let target = ordered.bytes.assumingMemoryBound(to: Float.self).baseAddress! + block * size * width
            for place in 0..<size {
                let column = factor.order[place]
                for n in 0..<width {
                    let row = block * width + n
                    target[place * width + n] = row < weights.rows && !factor.dead[place] ? weights.values[row * size + column] : 0
                }
            }
        }
        let losses = try AlignedBuffer(byteCount: blocks * width * 4)
        losses.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        let perItem = 8
        for start in stride(from: 0, to: size, by: FeedbackFactor.block) {
            let columns = min(FeedbackFactor.block, size - start)
            let pieces = ceilingDivide(columns, step)
            // R_ji / R_ii for the columns of this step, packed as the left operand.
            let packed = try AlignedBuffer(byteCount: max(64, pieces * step * start * 4))
            let within = try AlignedBuffer(byteCount: columns * columns * 4)
            let inverses = (0..<columns).map { 1 / factor.matrix[(start + $0) * size + start + $0] }
            try ParallelLoop.run(count: pieces, workers: factor.workers, state: {}) { [factor] piece, _ in
                let target = packed.bytes.assumingMemoryBound(to: Float.self).baseAddress! + piece * step * start
                let first = piece * step
                let width = min(step, columns - first)
                for place in 0..<start {
                    let source = factor.matrix + place * size + start + first
                    for t in 0..<step { target[place * step + t] = t < width ? source[t] * inverses[first + t] : 0 }
                }
            }
            within.withMemory(of: Float.self) { near in
                for i in 0..<columns {
                    for j in 0..<columns { near[i * columns + j] = j > i ? factor.matrix[(start + i) * size + start + j] * inverses[j] : 0 }
                }
            }
            let importance = (0..<columns).map { column -> Float in
                let diagonal = factor.matrix[(start + column) * size + start + column]
                return factor.dead[start + column] ? 0 : diagonal * diagonal
            }
            let items = ceilingDivide(blocks, perItem)
            try ParallelLoop.run(count: items, workers: factor.workers) {
                try AlignedBuffer(byteCount: (perItem * pieces * step * width + 2 * columns * width) * 4 + columns * width)
            } body: { [factor] item, scratch in
                let mine = item * perItem..<min(blocks, (item + 1) * perItem)
                let targets = scratch.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let scales = targets + perItem * pieces * step * width
                let biases = scales + columns * width
                let rounded = UnsafeMutableRawPointer(biases + columns * width).assumingMemoryBound(to: UInt8.self)
                let far = packed.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let near = within.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let error = errors.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let source = ordered.bytes.assumingMemoryBound(to: Float.self).baseAddress!
                let result = codes.bytes.assumingMemoryBound(to: UInt8.self).baseAddress!
                for block in mine {
                    (targets + (block - mine.lowerBound) * pieces * step * width)
                        .update(from: source + (block * size + start) * width, count: columns * width)
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
                    for i in 0..<columns {
                        let group = factor.order[start + i] / groupSize
                        for n in 0..<width {
                            let row = min(block * width + n, weights.rows - 1)
                            let parameters = groups[row * count + group]
                            scales[i * width + n] = parameters.scale
                            biases[i * width + n] = grid.bias(parameters)
                        }
                    }
                    ck_feedback_round(
                        level, targets + (block - mine.lowerBound) * pieces * step * width, source + (block * size + start) * width, near,
                        columns, columns, scales, biases, grid.greatest, importance,
                        losses.bytes.assumingMemoryBound(to: Float.self).baseAddress! + block * width,
                        error + (block * size + start) * width, rounded)
                    for n in 0..<min(width, weights.rows - block * width) {
                        let row = result + (block * width + n) * size
                        for i in 0..<columns { row[factor.order[start + i]] = rounded[i * width + n] }
                    }
                }
            }
        }
        return (
            QuantizedRows(codes: codes.array(of: UInt8.self, count: weights.rows * size), groups: groups),
            losses.array(of: Float.self, count: weights.rows)
        )
    }
}
