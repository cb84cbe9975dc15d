import Architectures
import Runtime
import Tensors

/// What a layer needs of its attention, whichever kind it is.
protocol Attention {
    /// The names of all weights that an observer is shown.
    var names: [String] { get }

    /// Returns [tokens, hidden].
    func apply(_ input: AttentionInput) throws -> Activations

    /// Shows the weights to the observer, those that share inputs together. `pieces` calls its body with stretches of inputs, `count` tokens in all.
    func observe(_ observer: any WeightObserver, _ pieces: @escaping InputPieces, count: Int) throws
}

/// The inputs of some tokens of a pass.
struct AttentionInput {
    /// [tokens, hidden], normalised.
    let x: Activations
    /// Runs of rows that see each other.
    let sequences: [Range<Int>]
    /// The number of the first row among the tokens of the pass.
    let first: Int
}

/// Calls its body with the inputs of some tokens after another.
typealias InputPieces = (_ body: (AttentionInput) throws -> Void) throws -> Void

/// What the attentions of a pass share.
struct AttentionContext {
    let configuration: ModelConfiguration
    let weights: ModelWeights
    let rotary: RotaryEmbedding
    /// Heads that are computed side by side.
    let workers: Int
    let layer: Int
    /// The tokens that the model's indexer lets queries see; nil where they see all before them.
    let choice: TokenChoice?
    /// Of the inner norms of latent attention.
    let latentEpsilon: Double

    func name(_ role: ModuleRole) -> String { configuration.weight(role, layer: layer) }

    /// A linear weight, with a bias where the configuration says so.
    func linear(_ role: ModuleRole, _ x: Activations, outputs: Int) throws -> Activations {
        try linear([(role, outputs)], x)[0]
    }

    /// Several of one input.
    func linear(_ members: [(role: ModuleRole, outputs: Int)], _ x: Activations) throws -> [Activations] {
        let results = try weights.linear(members.map { (name($0.role), $0.outputs) }, x)
        for (member, result) in zip(members, results) where configuration.biased.contains(member.role) {
            try weights.addBias(configuration.module(member.role, layer: layer) + ".bias", to: result)
        }
        return results
    }

    /// The attention of the configuration's kind.
    var attention: any Attention {
        switch configuration.attention {
        case .latent(let sizes): LatentAttention(context: self, sizes: sizes)
        case .grouped(let sizes): GroupedAttention(context: self, sizes: sizes)
        }
    }

    /// The core over heads that see the past.
    func causal(_ input: AttentionInput) throws -> CausalAttention {
        CausalAttention(
            precision: weights.precision, heads: configuration.heads, headSize: configuration.attention.headSize,
            valueSize: configuration.attention.valueSize, scale: rotary.softmaxScale, workers: workers, window: configuration.window(layer),
            sinks: try configuration.architecture.sinksName(layer: layer).map { try weights.vector($0, count: configuration.heads) } ?? [],
            choice: choice, first: input.first)
    }

    /// Multiplies the queries of positions that lie beyond the original length, where the model asks for it.
    func growQueries(_ query: Activations, _ sequences: [Range<Int>]) {
        guard let growth = configuration.rotary.queryGrowth else { return }
        for sequence in sequences {
            for (position, token) in sequence.enumerated() {
                let scale = rotary.queryScale(growth, at: position, precision: weights.precision)
                guard scale != 1 else { continue }
                for channel in 0..<query.columns { query[token][channel] *= scale }
            }
        }
        weights.precision.round(query)
    }

    /// Turns, in place, what `parts` names of every token by its position: pointers to the first of `2 * pairs` values.
    func rotate(
        _ sequences: [Range<Int>], pairs: Int, isInterleaved: Bool? = nil,
        _ parts: @escaping @Sendable (_ token: Int) -> [UnsafeMutablePointer<Float>]
    ) throws {
        let table = rotary.table(length: sequences.map(\.count).max() ?? 0, precision: weights.precision)
        let (rotary, precision) = (rotary, weights.precision)
        let isInterleaved = isInterleaved ?? configuration.rotary.isInterleaved
        try ParallelLoop.run(count: sequences.count, workers: weights.workers, state: {}) { number, _ in
            table.cosines.withUnsafeBufferPointer { cosines in
                table.sines.withUnsafeBufferPointer { sines in
                    for (position, token) in sequences[number].enumerated() {
                        for part in parts(token) {
                            rotary.rotate(
                                part, pairs: pairs, isInterleaved: isInterleaved, cosines: cosines.baseAddress! + position * pairs,
                                sines: sines.baseAddress! + position * pairs, precision: precision)
                        }
                    }
                }
            }
        }
    }
}
