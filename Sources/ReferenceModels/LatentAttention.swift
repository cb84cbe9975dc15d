import Architectures
import Tensors

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in its naive form: keys and values are expanded from the latent.
struct LatentAttention: Attention {
    let context: AttentionContext
    let sizes: ModelConfiguration.Attention.Latent

    private var heads: Int { context.configuration.heads }

    private var queryRole: ModuleRole { sizes.queryRank == nil ? .query : .queryDown }

    var names: [String] {
        (readingInput + (sizes.queryRank == nil ? [] : readingQueryLatent) + [.keyValueUp, .output]).map(context.name)
    }

    private var readingInput: [ModuleRole] { [queryRole, .keyValueDown] + (indexer == nil ? [] : [.indexerKey, .indexerHeadWeights]) }
    private var readingQueryLatent: [ModuleRole] { [.queryUp] + (indexer == nil ? [] : [.indexerQuery]) }

    /// The layer's own indexer.
    private var indexer: TokenIndexer? {
        context.configuration.indexer.flatMap { sizes in
            sizes.sharingLayers.contains(context.layer) ? nil : TokenIndexer(context: context, sizes: sizes)
        }
    }

    func observe(_ observer: any WeightObserver, _ pieces: @escaping InputPieces, count: Int) throws {
        let c = context.configuration
        try observer.willUse(
            readingInput.map(context.name),
            inputs: ObservedInputs(columns: c.hiddenSize, count: count) { body in try pieces { try body($0.x) } }, pooled: nil)
        if let rank = sizes.queryRank {
            let inputs = ObservedInputs(columns: rank, count: count) { body in try pieces { try body(queryLatent($0.x, rank)) } }
            try observer.willUse(readingQueryLatent.map(context.name), inputs: inputs, pooled: nil)
        }
        let latents = ObservedInputs(columns: sizes.latentRank, count: count) { body in
            try pieces { try body(latent(compressed($0.x))) }
        }
        try observer.willUse([context.name(.keyValueUp)], inputs: latents, pooled: nil)
        let outputs = ObservedInputs(columns: heads * sizes.valueSize, count: count) { body in
            try pieces { try body(attended($0)) }
        }
        try observer.willUse([context.name(.output)], inputs: outputs, pooled: nil)
    }

    func apply(_ input: AttentionInput) throws -> Activations {
        try context.linear(.output, attended(input), outputs: context.configuration.hiddenSize)
    }

    /// The queries, [tokens, heads * (nope | rope)]; on the way the indexer says which tokens they see.
    private func query(of latent: Activations, _ input: AttentionInput) throws -> Activations {
        if let choice = context.choice { try indexer?.choose(input, queryLatent: latent, into: choice) }
        return try context.linear(.queryUp, latent, outputs: heads * (sizes.nopeSize + sizes.ropeSize))
    }

    /// The latent that queries come from, [tokens, rank].
    private func queryLatent(_ x: Activations, _ rank: Int) throws -> Activations {
        try context.weights.normalise(
            context.linear(.queryDown, x, outputs: rank), by: context.name(.queryLatentNorm), epsilon: context.latentEpsilon)
    }

    /// [tokens, latent | rope part of the key, one for all heads]
    private func compressed(_ x: Activations) throws -> Activations {
        try context.linear(.keyValueDown, x, outputs: sizes.latentRank + sizes.ropeSize)
    }

    /// The latent that keys and values come from, [tokens, rank].
    private func latent(_ compressed: Activations) throws -> Activations {
        try context.weights.normalise(compressed, by: context.name(.keyValueNorm), columns: sizes.latentRank, epsilon: context.latentEpsilon)
    }

    /// The outputs of all heads before they are projected, [tokens, heads * value].
    private func attended(_ input: AttentionInput) throws -> Activations {
        let x = input.x
        let (nope, rope, latentRank, value) = (sizes.nopeSize, sizes.ropeSize, sizes.latentRank, sizes.valueSize)
        let head = nope + rope, heads = heads
        // [tokens, heads * (nope | rope)]
        let query: Activations =
            if let rank = sizes.queryRank {
                try query(of: queryLatent(x, rank), input)
            } else {
                try context.linear(.query, x, outputs: heads * head)
            }
        let compressed = try compressed(x)
        // [tokens, heads * (nope | value)]
        let keyValue = try context.linear(.keyValueUp, latent(compressed), outputs: heads * (nope + value))
        // Once: the queries of every head, and the key part that all heads share.
        try context.rotate(input.sequences, pairs: rope / 2) { token in
            (0..<heads).map { query[token] + $0 * head + nope } + [compressed[token] + latentRank]
        }
        context.growQueries(query, input.sequences)
        let memory = CausalAttention.Memory(
            key: { h, token, target in
                target.update(from: keyValue[token] + h * (nope + value), count: nope)
                (target + nope).update(from: compressed[token] + latentRank, count: rope)
            },
            value: { h, token in UnsafePointer(keyValue[token] + h * (nope + value) + nope) })
        return try context.causal(input).apply(query, memory, sequences: input.sequences)
    }
}
