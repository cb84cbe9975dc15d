import Architectures
import Runtime
import Tensors

/// What a layer needs of its attention, whichever kind it is.
protocol Attention {
    /// The names of all weights that an observer is shown.
    var names: [String] { get }

    /// `x` is [tokens, hidden], normalised; `sequences` are the runs of tokens that see each other. Returns [tokens, hidden].
    func apply(_ x: Activations, sequences: [Range<Int>]) throws -> Activations

    /// Shows the weights to the observer, those that share inputs together. `pieces` calls its body with stretches of inputs, `count` tokens in all.
    func observe(_ observer: any WeightObserver, _ pieces: @escaping InputPieces, count: Int) throws
}

/// Calls its body with the normalised inputs of some tokens after another, and the sequences among them.
typealias InputPieces = (_ body: (Activations, [Range<Int>]) throws -> Void) throws -> Void

/// What the attentions of a pass share.
struct AttentionContext {
    let configuration: ModelConfiguration
    let weights: ModelWeights
    let rotary: RotaryEmbedding
    /// Heads that are computed side by side.
    let workers: Int
    let layer: Int

    func name(_ role: ModuleRole) -> String { configuration.weight(role, layer: layer) }

    /// A linear weight, with a bias where the configuration says so.
    func linear(_ role: ModuleRole, _ x: Activations, outputs: Int) throws -> Activations {
        let result = try weights.linear(name(role), x, outputs: outputs)
        if configuration.biased.contains(role) { try weights.addBias(configuration.module(role, layer: layer) + ".bias", to: result) }
        return result
    }

    /// The attention of the configuration's kind.
    var attention: any Attention {
        switch configuration.attention {
        case .latent(let sizes): LatentAttention(context: self, sizes: sizes)
        case .grouped(let sizes): GroupedAttention(context: self, sizes: sizes)
        }
    }

    /// The core over heads that see the past.
    func causal() throws -> CausalAttention {
        CausalAttention(
            precision: weights.precision, heads: configuration.heads, headSize: configuration.attention.headSize,
            valueSize: configuration.attention.valueSize, scale: rotary.softmaxScale, workers: workers, window: configuration.window(layer),
            sinks: try configuration.architecture.sinksName(layer: layer).map { try weights.vector($0, count: configuration.heads) } ?? [])
    }

    /// Turns, in place, what `parts` names of every token by its position: pointers to the first of `2 * pairs` values.
    func rotate(_ sequences: [Range<Int>], pairs: Int, _ parts: @escaping @Sendable (_ token: Int) -> [UnsafeMutablePointer<Float>]) throws {
        let table = rotary.table(length: sequences.map(\.count).max() ?? 0, precision: weights.precision)
        let (rotary, precision) = (rotary, weights.precision)
        try ParallelLoop.run(count: sequences.count, workers: weights.workers, state: {}) { number, _ in
            table.cosines.withUnsafeBufferPointer { cosines in
                table.sines.withUnsafeBufferPointer { sines in
                    for (position, token) in sequences[number].enumerated() {
                        for part in parts(token) {
                            rotary.rotate(
                                part, pairs: pairs, cosines: cosines.baseAddress! + position * pairs, sines: sines.baseAddress! + position * pairs,
                                precision: precision)
                        }
                    }
                }
            }
        }
    }
}
