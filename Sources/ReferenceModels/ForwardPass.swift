import Checkpoints
import Conversion
import Formats
import Tensors

/// The reference forward pass over a batch of sequences, one layer at a time, so that two checkpoints can be run in lockstep.
///
/// All arithmetic is F32 with a fixed order of additions: the same bits for any number of workers and any instruction set.
public final class ForwardPass {
    public let configuration: ModelConfiguration
    public let weights: ModelWeights
    public let tokens: TokenBatch
    /// The residual stream, [tokens, hidden]: the embedding before layer 0, then after each layer.
    public private(set) var hidden: Activations
    /// The next layer to run.
    public private(set) var layer = 0
    private let rotary: RotaryEmbedding

    public init(_ checkpoint: Checkpoint, tokens: TokenBatch, precision: Precision = .f32, options: RunOptions = RunOptions()) throws {
        configuration = try ModelConfiguration(config: checkpoint.config)
        weights = try ModelWeights(checkpoint, workers: max(1, options.jobs ?? ProcessFigures.processorCount), precision: precision)
        self.tokens = tokens
        try tokens.check(vocabulary: configuration.vocabulary)
        let needed = Self.activationBytes(configuration, tokens)
        guard needed <= options.memory else { throw ReferenceFailure.memory(needed: needed, budget: options.memory) }
        rotary = RotaryEmbedding(configuration)
        hidden = try weights.rows("model.embed_tokens.weight", [configuration.vocabulary, configuration.hiddenSize], tokens.all)
    }

    /// What the widest layer holds at once.
    package static func activationBytes(_ c: ModelConfiguration, _ tokens: TokenBatch) -> Int {
        let query = c.heads * (c.nopeSize + c.ropeSize)
        let keyValue = c.heads * (c.nopeSize + c.valueSize)
        let attention = query + keyValue + c.heads * c.valueSize + c.latentRank + c.ropeSize + (c.queryRank ?? 0) * 2
        let feedForward = 6.0 * Double(c.hiddenSize) * Double((c.router?.expertsPerToken ?? 1) + 1)
        // Untrusted sizes: in F64, where nothing overflows.
        let bytes = Double(tokens.count) * 4 * (4 * Double(c.hiddenSize) + max(Double(attention), feedForward))
        return bytes < 0x1p60 ? Int(bytes) : 1 << 60
    }

    /// How many tokens' logits fit comfortably in memory at once.
    public var logitsChunk: Int { min(max((4 << 20) / configuration.vocabulary, 64), 8192) }

    public var isDone: Bool { layer == configuration.layers }

    /// Runs the next layer: h += Attention(RMSNorm(h)); h += MLP(RMSNorm(h)).
    /// - Returns: the routing, in a layer with experts.
    @discardableResult
    public func step() throws -> Routing? {
        let routing = try run(layer: layer, on: hidden, sequences: tokens.ranges)
        layer += 1
        return routing
    }

    private func run(layer: Int, on hidden: Activations, sequences: [Range<Int>]) throws -> Routing? {
        let c = configuration
        let prefix = "model.layers.\(layer)."
        let attention = LatentAttention(configuration: c, weights: weights, rotary: rotary, prefix: prefix + "self_attn.")
        try weights.add(attention.apply(norm(prefix + "input_layernorm.weight", hidden), sequences: sequences), to: hidden)
        let feedForward = FeedForward(configuration: c, weights: weights, prefix: prefix + "mlp.")
        let (output, routing) = try feedForward.apply(
            norm(prefix + "post_attention_layernorm.weight", hidden), isMixture: layer >= c.denseLayers)
        try weights.add(output, to: hidden)
        return routing
    }

    private func norm(_ name: String, _ x: Activations) throws -> Activations {
        try weights.normalise(x, by: name, epsilon: configuration.epsilon)
    }

    /// Logits of some tokens, [rows, vocabulary], from the finished residual stream.
    public func logits(_ rows: Range<Int>) throws -> Activations {
        let part = hidden.gathered(Array(rows))
        return try weights.linear(
            weights.contains("lm_head.weight") ? "lm_head.weight" : "model.embed_tokens.weight", norm("model.norm.weight", part),
            outputs: configuration.vocabulary)
    }

    /// Logits of the multi-token-prediction module for one sequence of two tokens or more: row i predicts token i + 2.
    ///
    /// z_i = eh_proj [enorm(embed(t_i+1)); hnorm(h_i)], one mixture layer over z, shared_head (arXiv 2412.19437, section 2.2).
    public func mtpLogits(sequence: Int) throws -> Activations? {
        let c = configuration
        let range = tokens.ranges[sequence]
        let prefix = "model.layers.\(c.layers)."
        guard c.mtpModules > 0, isDone, range.count > 1, weights.contains(prefix + "eh_proj.weight") else { return nil }
        let embedding = weights.contains(prefix + "embed_tokens.weight") ? prefix + "embed_tokens.weight" : "model.embed_tokens.weight"
        let next = try weights.rows(embedding, [c.vocabulary, c.hiddenSize], Array(tokens.all[range].dropFirst()))
        let embedded = try norm(prefix + "enorm.weight", next)
        let previous = try norm(prefix + "hnorm.weight", hidden.gathered(Array(range.dropLast())))
        let joined = Activations(rows: next.rows, columns: 2 * c.hiddenSize)
        for row in 0..<next.rows {
            joined[row].update(from: embedded[row], count: c.hiddenSize)
            (joined[row] + c.hiddenSize).update(from: previous[row], count: c.hiddenSize)
        }
        let z = try weights.linear(prefix + "eh_proj.weight", joined, outputs: c.hiddenSize)
        _ = try run(layer: c.layers, on: z, sequences: [0..<z.rows])
        let head = weights.contains(prefix + "shared_head.head.weight") ? prefix + "shared_head.head.weight" : "lm_head.weight"
        return try weights.linear(head, norm(prefix + "shared_head.norm.weight", z), outputs: c.vocabulary)
    }
}
