import CKernels
import Runtime
import Tensors

/// softmax(q k^T s) v with a causal mask, for heads whose keys and values are shown one token at a time.
struct CausalAttention {
    let precision: Precision
    let heads: Int
    /// Width of queries and keys, and of values.
    let headSize: Int
    let valueSize: Int
    /// Multiplies the scores.
    let scale: Float
    /// Heads that are computed side by side, each with scratch of its own.
    let workers: Int
    /// How many tokens a query sees at most, its own among them; nil for all before it.
    var window: Int?
    /// A logit of each head that joins the softmax and stands for no token; none where empty.
    var sinks: [Float] = []
    /// The tokens that each query sees; nil for all before it.
    var choice: TokenChoice?
    /// The number of the first row among the tokens of the pass, by which `choice` counts.
    var first = 0

    /// Where a head's keys and values are.
    struct Memory: Sendable {
        /// Writes the key of a token: `headSize` values.
        let key: @Sendable (_ head: Int, _ token: Int, _ target: UnsafeMutablePointer<Float>) -> Void
        /// The value of a token: `valueSize` values.
        let value: @Sendable (_ head: Int, _ token: Int) -> UnsafePointer<Float>
    }

    /// The outputs of all heads, [tokens, heads * valueSize], from queries [tokens, heads * headSize].
    func apply(_ query: Activations, _ memory: Memory, sequences: [Range<Int>]) throws -> Activations {
        let output = try Activations(unfilled: query.rows, columns: heads * valueSize)
        try ParallelLoop.run(count: sequences.count * heads, workers: workers, state: {}) { index, _ in
            try attend(query, memory, sequences[index / heads], head: index % heads, into: output)
        }
        if precision == .bf16 { precision.round(output) }
        return output
    }

    /// One head over one sequence.
    private func attend(_ query: Activations, _ memory: Memory, _ sequence: Range<Int>, head h: Int, into output: Activations) throws {
        let length = sequence.count
        let level = KernelLevel.active.rawValue
        let width = Int(CK_PANEL)
        let keys = try Activations(unfilled: length, columns: headSize)
        for (row, token) in sequence.enumerated() { memory.key(h, token, keys[row]) }
        let block = Int(CK_TOKEN_BLOCK)
        let panels = ceilingDivide(length, width)
        let keyPanels = try Activations(unfilled: panels * headSize, columns: width)
        for panel in 0..<panels {
            let first = panel * width
            ck_pack_f32_panel(keys[first], headSize, min(width, length - first), headSize, keyPanels[panel * headSize])
        }
        let valuePanels = try Activations(rows: ceilingDivide(valueSize, width) * length, columns: width)
        for (row, token) in sequence.enumerated() {
            let value = memory.value(h, token)
            for start in stride(from: 0, to: valueSize, by: width) {
                valuePanels[start / width * length + row].update(from: value + start, count: min(width, valueSize - start))
            }
        }
        let scores = try Activations(rows: block, columns: length)
        let packed = try Activations(unfilled: max(headSize, length), columns: block)
        for first in stride(from: 0, to: length, by: block) {
            let tokens = min(block, length - first)
            // Keys after the block's last token are masked: they are neither computed nor summed.
            let visible = first + tokens
            ck_pack_tokens(level, query[sequence.lowerBound + first] + h * headSize, query.columns, tokens, headSize, packed.base)
            ck_matrix_product(
                level, packed.base, tokens, keyPanels.base, width * headSize, headSize, scores.base, length,
                min(ceilingDivide(visible, width) * width, length), 0)
            precision.round(scores)
            for row in 0..<tokens {
                let seen = first + row + 1
                let hidden = window.map { max(0, seen - $0) } ?? 0
                scores[row].update(repeating: 0, count: hidden)
                if let choice, length > choice.keptTokens {
                    choice.hide(scores[row], row: self.first + sequence.lowerBound + first + row, count: seen)
                }
                ck_softmax(
                    level, scores[row] + hidden, seen - hidden, scale, sinks.isEmpty ? -.infinity : sinks[h], precision == .bf16 ? 1 : 0)
                (scores[row] + seen).update(repeating: 0, count: visible - seen)
            }
            precision.round(scores)
            ck_pack_tokens(level, scores.base, length, tokens, visible, packed.base)
            ck_matrix_product(
                level, packed.base, tokens, valuePanels.base, width * length, visible, output[sequence.lowerBound + first] + h * valueSize,
                output.columns, valueSize, 0)
        }
    }
}
