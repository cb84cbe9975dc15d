import Architectures
import CKernels
import Runtime
import Tensors

/// The indexer of DeepSeek sparse attention (DeepSeek-V3.2, arXiv 2512.02556, section 2.1). Token s matters to query t by
/// sum_h w_th relu(q_th . k_s / sqrt(d)) / sqrt(heads); the `keptTokens` that matter most are seen, among equals those that ``LargestScores`` keeps.
///
/// DeepSeek's own program turns queries and keys by a Hadamard matrix and rounds them to FP8 besides; neither is part of the model.
struct TokenIndexer {
    let context: AttentionContext
    let sizes: ModelConfiguration.Indexer
    private static let epsilon = 1e-6

    init(context: AttentionContext, sizes: ModelConfiguration.Indexer) {
        self.context = context
        self.sizes = sizes
    }

    /// Writes down what the tokens of all sequences see that are longer than what is kept.
    func choose(_ input: AttentionInput, queryLatent: Activations, into choice: TokenChoice) throws {
        let long = input.sequences.filter { $0.count > sizes.keptTokens }
        guard !long.isEmpty else { return }
        let (heads, size) = (sizes.heads, sizes.headSize)
        let query = try context.linear(.indexerQuery, queryLatent, outputs: heads * size)
        let key = try context.linear(.indexerKey, input.x, outputs: size)
        try context.weights.centre(key, by: context.configuration.module(.indexerKeyNorm, layer: context.layer), epsilon: Self.epsilon)
        try context.rotate(input.sequences, pairs: context.configuration.attention.ropeSize / 2, isInterleaved: sizes.isInterleaved) { token in
            (0..<heads).map { query[token] + $0 * size } + [key[token]]
        }
        let headWeights = try context.linear(.indexerHeadWeights, input.x, outputs: heads)
        for sequence in long { try choose(sequence, input.first, query, key, headWeights, into: choice) }
    }

    /// One sequence, blocks of queries side by side.
    private func choose(
        _ sequence: Range<Int>, _ first: Int, _ query: Activations, _ key: Activations, _ headWeights: Activations, into choice: TokenChoice
    ) throws {
        let (heads, size, length, kept) = (sizes.heads, sizes.headSize, sequence.count, sizes.keptTokens)
        let width = Int(CK_PANEL), block = Int(CK_TOKEN_BLOCK)
        let panels = ceilingDivide(length, width)
        let keyPanels = try Activations(rows: panels * size, columns: width)
        for panel in 0..<panels {
            let start = panel * width
            ck_pack_f32_panel(key[sequence.lowerBound + start], size, min(width, length - start), size, keyPanels[panel * size])
        }
        // Queries that see all before them ask nobody.
        for position in 0..<kept { choice.set(first + sequence.lowerBound + position, seen: 0...position) }
        let (scale, headScale) = (1 / Float(size).squareRoot(), 1 / Float(heads).squareRoot())
        let layer = context.layer
        let level = KernelLevel.active.rawValue
        let blocks = ceilingDivide(length - kept, block)
        try ParallelLoop.run(count: blocks, workers: context.weights.workers) {
            try (
                head: Activations(rows: block, columns: length), sum: Activations(rows: block, columns: length),
                packed: Activations(rows: size, columns: block)
            )
        } body: { index, scratch in
            let start = kept + index * block
            let tokens = min(block, length - start)
            let visible = start + tokens
            for row in 0..<tokens { scratch.sum[row].update(repeating: 0, count: visible) }
            for h in 0..<heads {
                ck_pack_tokens(level, query[sequence.lowerBound + start] + h * size, query.columns, tokens, size, scratch.packed.base)
                ck_matrix_product(
                    level, scratch.packed.base, tokens, keyPanels.base, width * size, size, scratch.head.base, length,
                    min(ceilingDivide(visible, width) * width, length), 0)
                for row in 0..<tokens {
                    let (scores, sum) = (scratch.head[row], scratch.sum[row])
                    let weight = headWeights[sequence.lowerBound + start + row][h] * headScale
                    for column in 0..<visible {
                        let score = scores[column] * scale
                        // NaN stays one.
                        sum[column] += weight * (score < 0 ? 0 : score)
                    }
                }
            }
            for row in 0..<tokens {
                let scores = UnsafeMutableBufferPointer(start: scratch.sum[row], count: length)
                guard scores[...(start + row)].allSatisfy(\.isFinite) else { throw ReferenceFailure.indexer(layer: layer) }
                // What comes later takes part, below all others, as it does in the reference.
                scores[(start + row + 1)...].update(repeating: -.greatestFiniteMagnitude)
                var largest = LargestScores(scores)
                choice.set(first + sequence.lowerBound + start + row, seen: largest.places(kept))
            }
        }
    }
}
