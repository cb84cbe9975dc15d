import StrictJSON

/// The sizes and switches of a model, read from `config.json` by its architecture: how its forward pass is put together from parts.
package struct ModelConfiguration: Sendable, Equatable {
    /// Whose names and rules the model has.
    package var architecture: Architecture
    package var hiddenSize: Int
    package var layers: Int
    package var heads: Int
    package var attention: Attention
    /// Layers before the first mixture of experts.
    package var denseLayers: Int
    /// Layers after it that have a dense network all the same.
    package var otherDenseLayers: [Int] = []
    /// Inner widths of the dense networks and of one expert, where `config.json` gives them.
    package var intermediateSize: Int?
    package var expertSize: Int?
    package var vocabulary: Int
    package var epsilon: Double
    package var router: Router?
    package var rotary: Rotary
    /// Linear weights of the attention that have biases.
    package var biased: [ModuleRole] = []
    /// What stands between the projections of a feed-forward network.
    package var activation = Activation.gated
    /// Layers whose tokens see no further than a window; nil where all see everything before them.
    package var window: Window?
    /// Whether the embedding is the output head too (`tie_word_embeddings`).
    package var tiesHead: Bool
    /// Multi-token-prediction modules stored after the layers.
    package var mtpModules = 0
    /// What chooses the tokens that a query sees; nil where it sees all before it.
    package var indexer: Indexer?

    /// How tokens see each other.
    package enum Attention: Sendable, Equatable {
        case latent(Latent)
        case grouped(Grouped)

        /// Keys and values come out of a latent (arXiv 2405.04434).
        package struct Latent: Sendable, Equatable {
            /// Nil for one full-rank query projection.
            package var queryRank: Int?
            package var latentRank: Int
            package var nopeSize: Int
            package var ropeSize: Int
            package var valueSize: Int
        }

        /// Several query heads share a key and value head (arXiv 2305.13245).
        package struct Grouped: Sendable, Equatable {
            package var keyHeads: Int
            package var headSize: Int
            /// How much of a head turns, from its first channel.
            package var ropeSize: Int
            package var norms: Norms

            /// How queries and keys are normalised before they turn.
            package enum Norms: Sendable, Equatable {
                case none
                /// Each head by itself.
                case perHead
                /// All heads of a token at once.
                case overHeads
            }
        }

        /// Width of a head's queries and keys.
        package var headSize: Int {
            switch self {
            case .latent(let latent): latent.nopeSize + latent.ropeSize
            case .grouped(let grouped): grouped.headSize
            }
        }

        /// Width of what a head puts out.
        package var valueSize: Int {
            switch self {
            case .latent(let latent): latent.valueSize
            case .grouped(let grouped): grouped.headSize
            }
        }

        /// How much of a head turns with the position.
        package var ropeSize: Int {
            switch self {
            case .latent(let latent): latent.ropeSize
            case .grouped(let grouped): grouped.ropeSize
            }
        }
    }

    package enum Activation: Sendable, Equatable {
        /// silu(gate) * up (arXiv 2002.05202)
        case gated
        /// (up + 1) * gate * sigmoid(alpha * gate), the gate no larger than the limit, the other within it on both sides.
        case clamped(alpha: Float, limit: Float)
    }

    /// Small heads beside the attention's that choose which tokens a query sees (DeepSeek-V3.2, arXiv 2512.02556, section 2.1).
    package struct Indexer: Sendable, Equatable {
        /// Tokens kept for each query. A sequence that is no longer is seen as a whole.
        package var keptTokens: Int
        package var heads: Int
        package var headSize: Int
        /// Whether pairs (2i, 2i + 1) of its heads turn together, or halves.
        package var isInterleaved: Bool
        /// Layers without one of their own: their queries see the tokens that the last indexer before them chose.
        package var sharingLayers: [Int] = []
        /// The roles of its weights.
        package static let roles: [ModuleRole] = [.indexerQuery, .indexerKey, .indexerKeyNorm, .indexerHeadWeights]
    }

    /// Attention to the last tokens only, the query's own among them.
    package struct Window: Sendable, Equatable {
        package var size: Int
        /// Ascending.
        package var layers: [Int]
    }

    package struct Router: Sendable, Equatable {
        package enum Scoring: Sendable, Equatable {
            case sigmoid, softmax
            /// The largest logits are chosen, and their softmax among themselves weighs them.
            case softmaxOfChosen
        }
        package enum GroupScore: Sendable, Equatable {
            /// All experts compete at once.
            case none
            /// V3: the sum of the two largest scores of a group.
            case twoLargest
            /// V2: the largest score of a group.
            case largest
        }
        package var experts: Int
        package var expertsPerToken: Int
        package var groups: Int
        package var keptGroups: Int
        package var scoring: Scoring
        package var groupScore: GroupScore
        package var normalises: Bool
        package var scalingFactor: Float
        /// Whether a bias takes part in the choice, not in the weights.
        package var hasSelectionBias: Bool
        package var sharedExperts: Int
    }

    package struct Rotary: Sendable, Equatable {
        package var base: Double
        package var yarn: YaRN?
        package var llama3: Llama3?
        /// How queries grow with their position; nil where they do not.
        package var queryGrowth: QueryGrowth?
        /// Whether pairs (2i, 2i + 1) turn together, as DeepSeek's released weights have them, or the halves (i, i + n/2).
        package var isInterleaved: Bool

        /// Llama 4 and Mistral Large 3: queries times 1 + beta ln(1 + floor(position / length)).
        package struct QueryGrowth: Sendable, Equatable {
            package var beta: Double
            package var length: Double

            package init(beta: Double, length: Double) {
                self.beta = beta
                self.length = length
            }
        }

        /// Llama 3.1: long waves are stretched, short ones stay, those between are mixed
        /// (huggingface/transformers:modeling_rope_utils.py, `_compute_llama3_parameters`).
        package struct Llama3: Sendable, Equatable {
            package var factor: Double
            package var lowFrequencyFactor: Double
            package var highFrequencyFactor: Double
            package var originalLength: Double

            package init(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, originalLength: Double) {
                self.factor = factor
                self.lowFrequencyFactor = lowFrequencyFactor
                self.highFrequencyFactor = highFrequencyFactor
                self.originalLength = originalLength
            }
        }

        package struct YaRN: Sendable, Equatable {
            package var factor: Double
            package var originalLength: Double
            package var betaFast: Double
            package var betaSlow: Double
            package var mscale: Double?
            package var mscaleAllDimensions: Double?
            package var attentionFactor: Double?
            /// Whether the pairs between which frequencies are mixed are whole numbers; gpt-oss mixes between fractions.
            package var truncates: Bool
        }
    }

    /// - Throws: ``ArchitectureFailure`` if a field is missing, is no number that can be, or changes the arithmetic in a way that is not known here.
    package init(config root: JSONValue) throws {
        let type = root["model_type"]?.string
        guard let architecture = Architecture.named(type) else {
            throw ArchitectureFailure.unknown(modelType: type ?? "an unknown model_type")
        }
        self = try architecture.configuration(ConfigurationReader(root: root), architecture)
    }

    init(
        architecture: Architecture, hiddenSize: Int, layers: Int, heads: Int, attention: Attention, denseLayers: Int, vocabulary: Int,
        epsilon: Double,
        router: Router?, rotary: Rotary, tiesHead: Bool
    ) {
        self.architecture = architecture
        self.hiddenSize = hiddenSize
        self.layers = layers
        self.heads = heads
        self.attention = attention
        self.denseLayers = denseLayers
        self.vocabulary = vocabulary
        self.epsilon = epsilon
        self.router = router
        self.rotary = rotary
        self.tiesHead = tiesHead
    }

    /// How many tokens a layer's queries see at most; nil for all before them.
    package func window(_ layer: Int) -> Int? { window.flatMap { $0.layers.contains(layer) ? $0.size : nil } }

    /// The roles of an expert's matrices, the last one down.
    package var expertRoles: [ModuleRole] {
        ModelRoles(architecture).joinsGateAndUp ? [.expertGateUp, .expertDown] : [.expertGate, .expertUp, .expertDown]
    }

    /// Whether a layer chooses among experts.
    /// Takes what `mlp_layer_types` says of each layer, which transformers heeds whatever `first_k_dense_replace` says beside it.
    mutating func takeLayerTypes(_ config: ConfigurationReader) throws {
        guard router != nil, let dense = try config.denseLayerTypes(of: layers) else { return }
        (denseLayers, otherDenseLayers) = dense
    }

    package func isMixture(_ layer: Int) -> Bool { router != nil && layer >= denseLayers && !otherDenseLayers.contains(layer) }

    /// The canonical name of a module.
    package func module(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String {
        architecture.module(role, layer: layer, expert: expert) ?? "\(role) of \(architecture.name)"
    }

    /// The canonical name of a module's weight.
    package func weight(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String {
        module(role, layer: layer, expert: expert) + ".weight"
    }

    /// The canonical name of the weight that puts out logits: the embedding where the two are tied.
    package var headWeight: String { weight(tiesHead ? .embedding : .head) }

    /// What two configurations compute differently, field by field; multi-token-prediction modules are for the weights to show.
    package func differences(from other: ModelConfiguration) -> [String] {
        var mine = self
        mine.mtpModules = other.mtpModules
        // The tensors' shapes say these where a configuration does not.
        if mine.intermediateSize == nil || other.intermediateSize == nil { mine.intermediateSize = other.intermediateSize }
        if mine.expertSize == nil || other.expertSize == nil { mine.expertSize = other.expertSize }
        guard mine != other else { return [] }
        let fields = zip(Mirror(reflecting: mine).children, Mirror(reflecting: other).children)
        return fields.compactMap { a, b in
            let (left, right) = ("\(a.value)", "\(b.value)")
            return left == right ? nil : "\(a.label ?? ""): \(right) and \(left)"
        }
    }
}
