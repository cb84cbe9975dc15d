import StrictJSON

/// The sizes and switches of a model, read from `config.json` by its architecture: how its forward pass is put together from parts.
public struct ModelConfiguration: Sendable, Equatable {
    /// Whose names and rules the model has.
    public var architecture: Architecture
    public var hiddenSize: Int
    public var layers: Int
    public var heads: Int
    public var attention: Attention
    /// Layers before the first mixture of experts.
    public var denseLayers: Int
    /// Layers after it that have a dense network all the same.
    public var otherDenseLayers: [Int] = []
    /// Inner widths of the dense networks and of one expert, where `config.json` gives them.
    public var intermediateSize: Int?
    public var expertSize: Int?
    public var vocabulary: Int
    public var epsilon: Double
    public var router: Router?
    public var rotary: Rotary
    /// Linear weights of the attention that have biases.
    public var biased: [ModuleRole] = []
    /// Whether the embedding is the output head too (`tie_word_embeddings`).
    public var tiesHead: Bool
    /// Multi-token-prediction modules stored after the layers.
    public var mtpModules = 0
    /// Tokens that sparse attention keeps for each query. A sequence that is no longer is attended to as a whole: there the indexer, whose weights are
    /// ``indexer``, changes nothing; nil where attention is dense.
    public var keptTokens: Int?
    /// The roles of weights that choose those tokens.
    public static let indexer: [ModuleRole] = [.indexerQuery, .indexerKey, .indexerKeyNorm, .indexerHeadWeights]

    /// How tokens see each other.
    public enum Attention: Sendable, Equatable {
        case latent(Latent)
        case grouped(Grouped)

        /// Keys and values come out of a latent (arXiv 2405.04434).
        public struct Latent: Sendable, Equatable {
            /// Nil for one full-rank query projection.
            public var queryRank: Int?
            public var latentRank: Int
            public var nopeSize: Int
            public var ropeSize: Int
            public var valueSize: Int
        }

        /// Several query heads share a key and value head (arXiv 2305.13245).
        public struct Grouped: Sendable, Equatable {
            public var keyHeads: Int
            public var headSize: Int
            /// How much of a head turns, from its first channel.
            public var ropeSize: Int
            public var norms: Norms

            /// How queries and keys are normalised before they turn.
            public enum Norms: Sendable, Equatable {
                case none
                /// Each head by itself.
                case perHead
                /// All heads of a token at once.
                case overHeads
            }
        }

        /// Width of a head's queries and keys.
        public var headSize: Int {
            switch self {
            case .latent(let latent): latent.nopeSize + latent.ropeSize
            case .grouped(let grouped): grouped.headSize
            }
        }

        /// Width of what a head puts out.
        public var valueSize: Int {
            switch self {
            case .latent(let latent): latent.valueSize
            case .grouped(let grouped): grouped.headSize
            }
        }

        /// How much of a head turns with the position.
        public var ropeSize: Int {
            switch self {
            case .latent(let latent): latent.ropeSize
            case .grouped(let grouped): grouped.ropeSize
            }
        }
    }

    public struct Router: Sendable, Equatable {
        public enum Scoring: Sendable, Equatable { case sigmoid, softmax }
        public enum GroupScore: Sendable, Equatable {
            /// All experts compete at once.
            case none
            /// V3: the sum of the two largest scores of a group.
            case twoLargest
            /// V2: the largest score of a group.
            case largest
        }
        public var experts: Int
        public var expertsPerToken: Int
        public var groups: Int
        public var keptGroups: Int
        public var scoring: Scoring
        public var groupScore: GroupScore
        public var normalises: Bool
        public var scalingFactor: Float
        /// Whether a bias takes part in the choice, not in the weights.
        public var hasSelectionBias: Bool
        public var sharedExperts: Int
    }

    public struct Rotary: Sendable, Equatable {
        public var base: Double
        public var yarn: YaRN?
        public var llama3: Llama3?
        /// Whether pairs (2i, 2i + 1) turn together, as DeepSeek's released weights have them, or the halves (i, i + n/2).
        public var isInterleaved: Bool

        /// Llama 3.1: long waves are stretched, short ones stay, those between are mixed
        /// (huggingface/transformers:modeling_rope_utils.py, `_compute_llama3_parameters`).
        public struct Llama3: Sendable, Equatable {
            public var factor: Double
            public var lowFrequencyFactor: Double
            public var highFrequencyFactor: Double
            public var originalLength: Double
        }

        public struct YaRN: Sendable, Equatable {
            public var factor: Double
            public var originalLength: Double
            public var betaFast: Double
            public var betaSlow: Double
            public var mscale: Double?
            public var mscaleAllDimensions: Double?
            public var attentionFactor: Double?
        }
    }

    /// - Throws: ``ArchitectureFailure`` if a field is missing, is no number that can be, or changes the arithmetic in a way that is not known here.
    public init(config root: JSONValue) throws {
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

    /// Whether a layer chooses among experts.
    public func isMixture(_ layer: Int) -> Bool { router != nil && layer >= denseLayers && !otherDenseLayers.contains(layer) }

    /// The canonical name of a module.
    public func module(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String {
        architecture.module(role, layer: layer, expert: expert) ?? "\(role) of \(architecture.name)"
    }

    /// The canonical name of a module's weight.
    public func weight(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String {
        module(role, layer: layer, expert: expert) + ".weight"
    }

    /// The canonical name of the weight that puts out logits: the embedding where the two are tied.
    public var headWeight: String { weight(tiesHead ? .embedding : .head) }

    /// What two configurations compute differently, field by field; multi-token-prediction modules are for the weights to show.
    public func differences(from other: ModelConfiguration) -> [String] {
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
