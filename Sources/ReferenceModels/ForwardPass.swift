import Architectures
import Checkpoints
import Formats
import Runtime
import Tensors

/// The reference forward pass over a batch of sequences, one layer at a time, so that two checkpoints can be run in lockstep.
///
/// All arithmetic is F32 with a fixed order of additions: the same bits for any number of workers and any instruction set.
package final class ForwardPass {
    package let configuration: ModelConfiguration
    package let weights: ModelWeights
    package let tokens: TokenBatch
    /// The residual stream, [tokens, hidden]: the embedding before layer 0, then after each layer.
    package private(set) var hidden: Activations
    /// The next layer to run.
    package private(set) var layer = 0
    private let rotary: RotaryEmbedding
    private let latentEpsilon: Double
    /// The tokens that the last indexer chose.
    private let choice: TokenChoice?

    /// Tokens whose wide activations are held at once.
    private let stretch: Int
    /// Attention heads that are computed side by side.
    private let headWorkers: Int
    private let observer: (any WeightObserver)?
    /// Sequences, from the first, whose tokens the observer sees.
    private let observedSequences: Int

    /// - Parameters:
    ///   - latentNorms: what the inner norms of latent attention add.
    ///   - passes: how many passes run side by side within the memory budget.
    ///   - overlay: weights that are used in place of the checkpoint's.
    ///   - observer: is shown the weights before they are used, with the inputs of the first `observedSequences` (nil: all).
    package init(
        _ checkpoint: Checkpoint, tokens: TokenBatch, precision: Precision = .f32, latentNorms: LatentNorms = .transformers, passes: Int = 1,
        overlay: WeightOverlay? = nil,
        observer: (any WeightObserver)? = nil, observedSequences: Int? = nil, options: RunOptions = RunOptions()
    ) throws {
        self.observer = observer
        self.observedSequences = observedSequences ?? tokens.ranges.count
        configuration = try ModelConfiguration(config: checkpoint.config)
        latentEpsilon = latentNorms.epsilon(configuration)
        weights = try ModelWeights(
            checkpoint, workers: max(1, options.jobs ?? ProcessFigures.processorCount), precision: precision, overlay: overlay)
        try Self.refuseUnknown(checkpoint, configuration)
        self.tokens = tokens
        try tokens.check(vocabulary: configuration.vocabulary)
        let budget = try ActivationBudget(configuration, tokens, passes: passes, workers: weights.workerCount, memory: options.memory)
        guard budget.batches.count == 1 else { throw ReferenceFailure.batches(budget.batches.count, budget: options.memory) }
        stretch = budget.stretch
        headWorkers = budget.heads
        rotary = RotaryEmbedding(configuration)
        choice = try configuration.indexer.flatMap { try TokenChoice($0, sequences: tokens.ranges) }
        hidden = try weights.rows(configuration.weight(.embedding), [configuration.vocabulary, configuration.hiddenSize], tokens.all)
    }

    /// A weight that this pass would not use makes another model: a bias, another norm, an adapter. What lies behind the layers that config.json
    /// counts is none of its business.
    private static func refuseUnknown(_ checkpoint: Checkpoint, _ configuration: ModelConfiguration) throws {
        let expected = ExpectedWeights(configuration)
        let known = Set(expected.required + expected.optional)
        let last = configuration.layers + configuration.mtpModules
        for weight in checkpoint.weights where !known.contains(weight.name) && !WeightName.isCompanion(weight.name) && weight.count > 0 {
            if let layer = WeightName.layer(weight.name), layer >= last { continue }
            guard weight.layout != nil, !configuration.architecture.carries(weight.name) else { continue }
            throw ReferenceFailure.unknownWeight(weight.name)
        }
    }

    /// How many tokens' logits fit comfortably in memory at once.
    package var logitsChunk: Int { min(max((4 << 20) / configuration.vocabulary, 64), 8192) }

    package var isDone: Bool { layer == configuration.layers }

    /// Whether the next layer needs nothing of those before it but the residual stream: no choice of tokens either.
    package var isResumable: Bool { Self.isResumable(configuration, at: layer) }

    /// Whether a pass can begin at a layer from a residual stream alone.
    package static func isResumable(_ configuration: ModelConfiguration, at layer: Int) -> Bool {
        !(configuration.indexer?.sharingLayers.contains(layer) ?? false)
    }

    /// Goes on from a residual stream that an earlier pass had before `layer`, which must be one to begin at.
    package func resume(at layer: Int, hidden: Activations) {
        precondition(Self.isResumable(configuration, at: layer), "a layer that sees what an earlier one chose")
        precondition(hidden.rows == tokens.count && hidden.columns == configuration.hiddenSize, "a residual stream of another batch")
        self.hidden = hidden
        self.layer = layer
    }

    /// Runs the next layer: h += Attention(RMSNorm(h)); h += MLP(RMSNorm(h)).
    /// - Returns: the routing, in a layer with experts.
    @discardableResult
    package func step() throws -> Routing? {
        let routing = try run(layer: layer, on: hidden, sequences: tokens.ranges, choice: choice)
        layer += 1
        return routing
    }

    private func run(layer: Int, on hidden: Activations, sequences: [Range<Int>], choice: TokenChoice?) throws -> Routing? {
        let attention = AttentionContext(
            configuration: configuration, weights: weights, rotary: rotary, workers: headWorkers, layer: layer, choice: choice,
            latentEpsilon: latentEpsilon
        ).attention
        let inputNorm = configuration.weight(.inputNorm, layer: layer)
        let seen = sequences.prefix(observedSequences)
        let observed = seen.last?.upperBound ?? 0
        if let observer {
            try attention.observe(
                observer,
                { body in
                    for group in self.stretches(of: Array(seen)) { try body(self.input(inputNorm, hidden, group)) }
                }, count: observed)
        }
        for group in stretches(of: sequences) {
            let input = try input(inputNorm, hidden, group)
            try weights.add(attention.apply(input), to: hidden, at: input.first)
        }
        observer?.didUse(attention.names)
        let feedForward = FeedForward(
            configuration: configuration, weights: weights, stretch: stretch, observer: observer, observed: observed, layer: layer)
        let (output, routing) = try feedForward.apply(norm(configuration.weight(.postAttentionNorm, layer: layer), hidden))
        try weights.add(output, to: hidden)
        return routing
    }

    /// Neighbouring sequences, normalised.
    private func input(_ norm: String, _ hidden: Activations, _ group: [Range<Int>]) throws -> AttentionInput {
        let rows = group[0].lowerBound..<group[group.count - 1].upperBound
        return AttentionInput(
            x: try self.norm(norm, hidden, rows), sequences: group.map { $0.lowerBound - rows.lowerBound..<$0.upperBound - rows.lowerBound },
            first: rows.lowerBound)
    }

    /// Runs of whole sequences of no more tokens than the stretch, or one longer sequence each.
    private func stretches(of sequences: [Range<Int>]) -> [[Range<Int>]] {
        var groups: [[Range<Int>]] = []
        for sequence in sequences where !sequence.isEmpty {
            if let first = groups.last?.first, sequence.upperBound - first.lowerBound <= stretch {
                groups[groups.count - 1].append(sequence)
            } else {
                groups.append([sequence])
            }
        }
        return groups
    }

    private func norm(_ name: String, _ x: Activations, _ rows: Range<Int>? = nil) throws -> Activations {
        try weights.normalise(x, rows: rows, by: name, epsilon: configuration.epsilon)
    }

    /// Logits of some tokens, [rows, vocabulary], from the finished residual stream.
    package func logits(_ rows: Range<Int>) throws -> Activations {
        try weights.linear(
            configuration.headWeight, norm(configuration.weight(.finalNorm), hidden, rows),
            outputs: configuration.vocabulary)
    }

    /// Runs the multi-token-prediction module over all sequences, from the finished residual stream; nil if there is none.
    ///
    /// z_i = join [norm(embed(t_i+1)); norm(h_i)], one mixture layer over z, a head (arXiv 2412.19437, section 2.2).
    package func multiTokenPrediction() throws -> MultiTokenPrediction? {
        let c = configuration
        func name(_ role: ModuleRole) -> String { c.weight(role, layer: c.layers) }
        guard c.mtpModules > 0, isDone, weights.contains(name(.predictionJoin)) else { return nil }
        // Row i of a sequence joins token i + 1 with the state of token i, so a sequence has one row less than tokens.
        let pairs = tokens.ranges.flatMap { $0.dropLast() }
        let sequences = MultiTokenPrediction.rows(of: tokens)
        let embedding = weights.contains(name(.predictionEmbedding)) ? name(.predictionEmbedding) : c.weight(.embedding)
        let z = try Activations(rows: pairs.count, columns: c.hiddenSize)
        for rows in TileSequence(rows: pairs.count, step: stretch) {
            let next = try weights.rows(embedding, [c.vocabulary, c.hiddenSize], rows.map { tokens.all[pairs[$0] + 1] })
            let embedded = try norm(name(.predictionEmbeddingNorm), next)
            let previous = try norm(name(.predictionStateNorm), hidden.gathered(rows.map { pairs[$0] }))
            let joined = try Activations(rows: next.rows, columns: 2 * c.hiddenSize)
            for row in 0..<next.rows {
                joined[row].update(from: embedded[row], count: c.hiddenSize)
                (joined[row] + c.hiddenSize).update(from: previous[row], count: c.hiddenSize)
            }
            let part = try weights.linear(name(.predictionJoin), joined, outputs: c.hiddenSize)
            z[rows.lowerBound].update(from: part.base, count: rows.count * c.hiddenSize)
        }
        _ = try run(
            layer: c.layers, on: z, sequences: sequences, choice: c.indexer.flatMap { try TokenChoice($0, sequences: sequences) })
        return MultiTokenPrediction(
            sequences: sequences, hidden: z, weights: weights, configuration: c,
            head: weights.contains(name(.predictionHead)) ? name(.predictionHead) : c.headWeight, norm: name(.predictionNorm))
    }
}
