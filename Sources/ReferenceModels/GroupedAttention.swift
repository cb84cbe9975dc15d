import Architectures
import Tensors

/// Grouped-query attention (arXiv 2305.13245): several query heads share a key and value head. Where the model has them, each head's queries and
/// keys are normalised before they turn.
struct GroupedAttention: Attention {
    let context: AttentionContext
    let sizes: ModelConfiguration.Attention.Grouped

    private var heads: Int { context.configuration.heads }

    var names: [String] { [.query, .key, .value, .output].map(context.name) }

    func observe(_ observer: any WeightObserver, _ pieces: @escaping InputPieces, count: Int) throws {
        try observer.willUse(
            [.query, .key, .value].map(context.name),
            inputs: ObservedInputs(columns: context.configuration.hiddenSize, count: count) { body in try pieces { try body($0.x) } },
            pooled: nil)
        let outputs = ObservedInputs(columns: heads * sizes.headSize, count: count) { body in
            try pieces { try body(attended($0)) }
        }
        try observer.willUse([context.name(.output)], inputs: outputs, pooled: nil)
    }

    func apply(_ input: AttentionInput) throws -> Activations {
        try context.linear(.output, attended(input), outputs: context.configuration.hiddenSize)
    }

    /// The outputs of all heads before they are projected, [tokens, heads * head].
    private func attended(_ input: AttentionInput) throws -> Activations {
        let x = input.x
        let (heads, keyHeads, head) = (heads, sizes.keyHeads, sizes.headSize)
        let projected = try context.linear([(.query, heads * head), (.key, keyHeads * head), (.value, keyHeads * head)], x)
        let (query, key, value) = (projected[0], projected[1], projected[2])
        if sizes.norms != .none {
            let epsilon = context.configuration.epsilon, isPerHead = sizes.norms == .perHead
            try context.weights.normaliseHeads(
                query, size: isPerHead ? head : heads * head, by: context.name(.queryHeadNorm), epsilon: epsilon)
            try context.weights.normaliseHeads(
                key, size: isPerHead ? head : keyHeads * head, by: context.name(.keyHeadNorm), epsilon: epsilon)
        }
        try context.rotate(input.sequences, pairs: sizes.ropeSize / 2) { token in
            (0..<heads).map { query[token] + $0 * head } + (0..<keyHeads).map { key[token] + $0 * head }
        }
        let group = heads / keyHeads
        let memory = CausalAttention.Memory(
            key: { h, token, target in target.update(from: key[token] + h / group * head, count: head) },
            value: { h, token in UnsafePointer(value[token] + h / group * head) })
        return try context.causal(input).apply(query, memory, sequences: input.sequences)
    }
}
