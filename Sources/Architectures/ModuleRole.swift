/// What a module of a language model is for, whatever an architecture calls it. All else (what stays unquantized, what is fused, folded, stacked or
/// divided) is said by role.
package enum ModuleRole: String, Sendable, CaseIterable {
    /// The rows of tokens, and the output head; both outside the layers.
    case embedding, finalNorm, head

    /// The norms before attention and before the feed-forward network.
    case inputNorm, postAttentionNorm

    /// Attention with one matrix each, and the norms of single heads.
    case query, key, value, output, queryHeadNorm, keyHeadNorm
    /// Latent attention: down to a latent, its norm, up to the heads.
    case queryDown, queryLatentNorm, queryUp, keyValueDown, keyValueNorm, keyValueUp
    /// Sparse attention's choice of tokens.
    case indexerQuery, indexerKey, indexerKeyNorm, indexerHeadWeights
    /// A table that some releases store.
    case rotaryFrequencies

    /// A dense network, one expert of a mixture, and the expert that all tokens use.
    case gate, up, down, expertGate, expertUp, expertDown, sharedGate, sharedUp, sharedDown
    /// Gate and up projections of an expert as one matrix, their rows interleaved: gate, up, gate, up.
    case expertGateUp
    /// Chooses experts; how much of the shared expert is used.
    case router, sharedExpertSwitch

    /// Multi-token prediction: what joins embedding and state, its norms, and its own embedding and head.
    case predictionJoin, predictionEmbeddingNorm, predictionStateNorm, predictionEmbedding, predictionNorm, predictionHead

    /// Roles of one expert among many.
    package static let routedExpert: Set<ModuleRole> = [.expertGate, .expertUp, .expertDown, .expertGateUp]

    /// A matrix that multiplies activations, as quantized layouts are for.
    package var isLinear: Bool {
        switch self {
        case .query, .key, .value, .output, .queryDown, .queryUp, .keyValueDown, .keyValueUp, .indexerQuery, .indexerKey, .gate, .up, .down,
            .expertGate, .expertUp, .expertDown, .expertGateUp, .sharedGate, .sharedUp, .sharedDown:
            true
        default: false
        }
    }
}

/// Which module of a model: what it is for, in which layer, of which expert.
package struct ModulePlace: Sendable, Hashable {
    package var role: ModuleRole
    package var layer: Int?
    package var expert: Int?

    package init(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) {
        self.role = role
        self.layer = layer
        self.expert = expert
    }
}
