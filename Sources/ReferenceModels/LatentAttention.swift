import CKernels
import Conversion
import Tensors

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in its naive form: keys and values are expanded from the latent.
struct LatentAttention {
    let configuration: ModelConfiguration
    let weights: ModelWeights
    let rotary: RotaryEmbedding
    /// Heads that are computed side by side.
    let workers: Int
    /// `model.layers.N.self_attn.`
    let prefix: String
    /// The inner norms take 1e-6 whatever the configuration says, as in both reference implementations.
    static let innerEpsilon = 1e-6

    private var queryNames: [String] { [prefix + (configuration.queryRank == nil ? "q_proj.weight" : "q_a_proj.weight")] }
    private var compressedName: String { prefix + "kv_a_proj_with_mqa.weight" }

    /// The names of all weights, and where they are observed: each with the inputs of those that share them.
    func observe(_ observer: any WeightObserver, _ pieces: @escaping (_ body: (Activations, [Range<Int>]) throws -> Void) throws -> Void, count: Int)
        throws
    {
        let c = configuration
        try observer.willUse(
            queryNames + [compressedName], inputs: ObservedInputs(columns: c.hiddenSize, count: count) { body in try pieces { x, _ in try body(x) } },
            pooled: nil)
        if let rank = c.queryRank {
            let inputs = ObservedInputs(columns: rank, count: count) { body in try pieces { x, _ in try body(queryLatent(x, rank)) } }
            try observer.willUse([prefix + "q_b_proj.weight"], inputs: inputs, pooled: nil)
        }
        let latents = ObservedInputs(columns: c.latentRank, count: count) { body in try pieces { x, _ in try body(latent(compressed(x))) } }
        try observer.willUse([prefix + "kv_b_proj.weight"], inputs: latents, pooled: nil)
        let heads = ObservedInputs(columns: c.heads * c.valueSize, count: count) { body in
            try pieces { x, sequences in try body(self.heads(x, sequences: sequences)) }
        }
        try observer.willUse([prefix + "o_proj.weight"], inputs: heads, pooled: nil)
    }

    var names: [String] {
        queryNames + [compressedName] + ["q_b_proj.weight", "kv_b_proj.weight", "o_proj.weight"].map { prefix + $0 }
    }

    private func queryLatent(_ x: Activations, _ rank: Int) throws -> Activations {
        let low = try biased("q_a_proj", x, outputs: rank)
        return try weights.normalise(low, by: prefix + "q_a_layernorm.weight", epsilon: Self.innerEpsilon)
    }

    /// [latent | rope part of the key, one for all heads]
    private func compressed(_ x: Activations) throws -> Activations {
        try biased("kv_a_proj_with_mqa", x, outputs: configuration.latentRank + configuration.ropeSize)
    }

    /// A projection that has a bias where the configuration says so (transformers: q_a_proj, kv_a_proj_with_mqa and o_proj).
    private func biased(_ module: String, _ x: Activations, outputs: Int) throws -> Activations {
        let result = try weights.linear(prefix + module + ".weight", x, outputs: outputs)
        if configuration.hasAttentionBias { try weights.addBias(prefix + module + ".bias", to: result) }
        return result
    }

    private func latent(_ compressed: Activations) throws -> Activations {
        try weights.normalise(
            compressed, by: prefix + "kv_a_layernorm.weight", columns: configuration.latentRank, epsilon: Self.innerEpsilon)
    }

    /// `x` is [tokens, hidden]; `sequences` are the runs of tokens that see each other.
    func apply(_ x: Activations, sequences: [Range<Int>]) throws -> Activations {
        try biased("o_proj", heads(x, sequences: sequences), outputs: configuration.hiddenSize)
    }

    /// The outputs of all heads, before they are projected.
    private func heads(_ x: Activations, sequences: [Range<Int>]) throws -> Activations {
        let c = configuration
        let keyNope = c.nopeSize, rope = c.ropeSize, head = keyNope + rope
        let query: Activations
        if let rank = c.queryRank {
            query = try weights.linear(prefix + "q_b_proj.weight", queryLatent(x, rank), outputs: c.heads * head)
        } else {
            query = try weights.linear(prefix + "q_proj.weight", x, outputs: c.heads * head)
        }
        let compressed = try compressed(x)
        let keyValue = try weights.linear(prefix + "kv_b_proj.weight", latent(compressed), outputs: c.heads * (keyNope + c.valueSize))

        let table = rotary.table(length: sequences.map(\.count).max() ?? 0, precision: weights.precision)
        let output = try Activations(rows: x.rows, columns: c.heads * c.valueSize)
        // Rotate once: q per head, the shared key part per token.
        let precision = weights.precision
        try ParallelLoop.run(count: sequences.count, workers: weights.workers, state: {}) { number, _ in
            for (position, token) in sequences[number].enumerated() {
                table.cosines.withUnsafeBufferPointer { cosines in
                    table.sines.withUnsafeBufferPointer { sines in
                        let offset = position * rope / 2
                        let (cosine, sine) = (cosines.baseAddress! + offset, sines.baseAddress! + offset)
                        for h in 0..<c.heads {
                            rotary.rotate(
                                query[token] + h * head + keyNope, pairs: rope / 2, cosines: cosine, sines: sine, precision: precision)
                        }
                        rotary.rotate(
                            compressed[token] + c.latentRank, pairs: rope / 2, cosines: cosine, sines: sine, precision: precision)
                    }
                }
            }
        }
        let count = sequences.count * c.heads
        try ParallelLoop.run(count: count, workers: workers, state: {}) { index, _ in
            try attend(query, compressed, keyValue, sequences[index / c.heads], head: index % c.heads, into: output)
        }
        if precision == .bf16 { precision.round(output) }
        return output
    }

    /// One head over one sequence: softmax(q k^T s) v with a causal mask.
    private func attend(
        _ query: Activations, _ compressed: Activations, _ keyValue: Activations, _ sequence: Range<Int>, head h: Int, into output: Activations
    ) throws {
        let c = configuration
        let head = c.nopeSize + c.ropeSize
        let length = sequence.count
        let level = KernelLevel.active.rawValue
        let width = Int(CK_PANEL)
        let keys = try Activations(rows: length, columns: head)
        for (row, token) in sequence.enumerated() {
            keys[row].update(from: keyValue[token] + h * (c.nopeSize + c.valueSize), count: c.nopeSize)
            (keys[row] + c.nopeSize).update(from: compressed[token] + c.latentRank, count: c.ropeSize)
        }
        let block = Int(CK_TOKEN_BLOCK)
        let panels = ceilingDivide(length, width)
        let keyPanels = try Activations(rows: panels * head, columns: width)
        for panel in 0..<panels {
            let first = panel * width
            ck_pack_f32_panel(keys[first], head, min(width, length - first), head, keyPanels[panel * head])
        }
        let valuePanels = try Activations(rows: ceilingDivide(c.valueSize, width) * length, columns: width)
        for (row, token) in sequence.enumerated() {
            let value = keyValue[token] + h * (c.nopeSize + c.valueSize) + c.nopeSize
            for n in 0..<c.valueSize { valuePanels[n / width * length + row][n % width] = value[n] }
        }
        let precision = weights.precision
        let scores = try Activations(rows: block, columns: length)
        let packed = try Activations(rows: max(head, length), columns: block)
        for first in stride(from: 0, to: length, by: block) {
            let tokens = min(block, length - first)
            // Keys after the block's last token are masked: they are neither computed nor summed.
            let visible = first + tokens
            for row in 0..<tokens { scores[row].update(repeating: 0, count: length) }
            ck_pack_tokens(query[sequence.lowerBound + first] + h * head, query.columns, tokens, head, packed.base)
            for panel in 0..<ceilingDivide(visible, width) {
                ck_matrix_product(
                    level, packed.base, tokens, keyPanels[panel * head], head, scores.base + panel * width, length,
                    min(width, length - panel * width), 0)
            }
            precision.round(scores)
            for row in 0..<tokens {
                for column in 0...(first + row) { scores[row][column] = precision.round(scores[row][column] * rotary.softmaxScale) }
                Self.softmax(scores[row], visible: first + row + 1, count: visible)
            }
            precision.round(scores)
            ck_pack_tokens(scores.base, length, tokens, visible, packed.base)
            for column in stride(from: 0, to: c.valueSize, by: width) {
                ck_matrix_product(
                    level, packed.base, tokens, valuePanels[column / width * length], visible,
                    output[sequence.lowerBound + first] + h * c.valueSize + column, output.columns,
                    min(width, c.valueSize - column), 0)
            }
        }
    }

    /// Softmax over the first `visible` scores; the rest becomes 0.
    static func softmax(_ scores: UnsafeMutablePointer<Float>, visible: Int, count: Int) {
        var largest = -Float.infinity
        for i in 0..<visible { largest = max(largest, scores[i]) }
        for i in 0..<visible { scores[i] -= largest }
        ck_exp(KernelLevel.active.rawValue, scores, visible)
        var sum = 0.0
        for i in 0..<visible { sum += Double(scores[i]) }
        let factor = Float(1 / sum)
        for i in 0..<visible { scores[i] *= factor }
        for i in visible..<max(visible, count) { scores[i] = 0 }
    }
}
