import CKernels
import Conversion
import Tensors

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in its naive form: keys and values are expanded from the latent.
struct LatentAttention {
    let configuration: ModelConfiguration
    let weights: ModelWeights
    let rotary: RotaryEmbedding
    /// `model.layers.N.self_attn.`
    let prefix: String
    /// The inner norms take 1e-6 whatever the configuration says, as in both reference implementations.
    static let innerEpsilon = 1e-6

    /// `x` is [tokens, hidden]; `sequences` are the runs of tokens that see each other.
    func apply(_ x: Activations, sequences: [Range<Int>]) throws -> Activations {
        let c = configuration
        let keyNope = c.nopeSize, rope = c.ropeSize, head = keyNope + rope
        let query: Activations
        if let rank = c.queryRank {
            let low = try weights.linear(prefix + "q_a_proj.weight", x, outputs: rank)
            let norm = RMSNorm(
                weight: try weights.vector(prefix + "q_a_layernorm.weight", count: rank), epsilon: Self.innerEpsilon, precision: weights.precision)
            query = try weights.linear(prefix + "q_b_proj.weight", norm.apply(low), outputs: c.heads * head)
        } else {
            query = try weights.linear(prefix + "q_proj.weight", x, outputs: c.heads * head)
        }
        // [latent | rope part of the key, one for all heads]
        let compressed = try weights.linear(prefix + "kv_a_proj_with_mqa.weight", x, outputs: c.latentRank + rope)
        let norm = RMSNorm(
            weight: try weights.vector(prefix + "kv_a_layernorm.weight", count: c.latentRank), epsilon: Self.innerEpsilon,
            precision: weights.precision)
        let keyValue = try weights.linear(
            prefix + "kv_b_proj.weight", norm.apply(compressed, columns: c.latentRank), outputs: c.heads * (keyNope + c.valueSize))

        let table = rotary.table(length: sequences.map(\.count).max() ?? 0, precision: weights.precision)
        let output = Activations(rows: x.rows, columns: c.heads * c.valueSize)
        // Rotate once: q per head, the shared key part per token.
        for sequence in sequences {
            for (position, token) in sequence.enumerated() {
                table.cosines.withUnsafeBufferPointer { cosines in
                    table.sines.withUnsafeBufferPointer { sines in
                        let offset = position * rope / 2
                        let (cosine, sine) = (cosines.baseAddress! + offset, sines.baseAddress! + offset)
                        for h in 0..<c.heads {
                            RotaryEmbedding.rotate(
                                query[token] + h * head + keyNope, pairs: rope / 2, cosines: cosine, sines: sine, precision: weights.precision)
                        }
                        RotaryEmbedding.rotate(
                            compressed[token] + c.latentRank, pairs: rope / 2, cosines: cosine, sines: sine, precision: weights.precision)
                    }
                }
            }
        }
        let count = sequences.count * c.heads
        try ParallelLoop.run(count: count, workers: weights.workers, state: {}) { index, _ in
            attend(query, compressed, keyValue, sequences[index / c.heads], head: index % c.heads, into: output)
        }
        weights.precision.round(output)
        return try weights.linear(prefix + "o_proj.weight", output, outputs: c.hiddenSize)
    }

    /// One head over one sequence: softmax(q k^T s) v with a causal mask.
    private func attend(
        _ query: Activations, _ compressed: Activations, _ keyValue: Activations, _ sequence: Range<Int>, head h: Int, into output: Activations
    ) {
        let c = configuration
        let head = c.nopeSize + c.ropeSize
        let length = sequence.count
        let level = KernelLevel.active.rawValue
        let width = Int(CK_PANEL)
        let keys = Activations(rows: length, columns: head)
        for (row, token) in sequence.enumerated() {
            keys[row].update(from: keyValue[token] + h * (c.nopeSize + c.valueSize), count: c.nopeSize)
            (keys[row] + c.nopeSize).update(from: compressed[token] + c.latentRank, count: c.ropeSize)
        }
        let scores = Activations(rows: length, columns: length)
        let panel = Activations(rows: max(head, length), columns: width)
        for first in stride(from: 0, to: length, by: width) {
            let count = min(width, length - first)
            ck_pack_f32_panel(keys[first], head, count, head, panel.base)
            ck_matrix_product(
                level, query[sequence.lowerBound] + h * head, query.columns, length, panel.base, head, scores.base + first, length, count)
        }
        let precision = weights.precision
        precision.round(scores)
        for row in 0..<length {
            for column in 0...row { scores[row][column] = precision.round(scores[row][column] * rotary.softmaxScale) }
            Self.softmax(scores[row], visible: row + 1, count: length)
        }
        precision.round(scores)
        for first in stride(from: 0, to: c.valueSize, by: width) {
            let count = min(width, c.valueSize - first)
            for (row, token) in sequence.enumerated() {
                let value = keyValue[token] + h * (c.nopeSize + c.valueSize) + c.nopeSize + first
                for n in 0..<width { panel[row][n] = n < count ? value[n] : 0 }
            }
            ck_matrix_product(
                level, scores.base, length, length, panel.base, length, output[sequence.lowerBound] + h * c.valueSize + first, output.columns, count)
        }
    }

    /// Softmax over the first `visible` scores; the rest becomes 0.
    static func softmax(_ scores: UnsafeMutablePointer<Float>, visible: Int, count: Int) {
        var largest = -Float.infinity
        for i in 0..<visible { largest = max(largest, scores[i]) }
        for i in 0..<visible { scores[i] -= largest }
        ck_exp(scores, visible)
        var sum = 0.0
        for i in 0..<visible { sum += Double(scores[i]) }
        let factor = Float(1 / sum)
        for i in 0..<visible { scores[i] *= factor }
        for i in visible..<max(visible, count) { scores[i] = 0 }
    }
}
