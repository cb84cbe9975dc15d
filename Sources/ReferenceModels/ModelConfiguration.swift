import StrictJSON

/// The sizes and switches of a DeepSeek-V2/V3-style model, read from `config.json`.
///
/// Source: huggingface/transformers:src/transformers/models/deepseek_v3 and deepseek_v2, deepseek-ai/DeepSeek-V3:inference/model.py.
public struct ModelConfiguration: Sendable, Equatable {
    public var hiddenSize: Int
    public var layers: Int
    /// Layers before the first mixture of experts.
    public var denseLayers: Int
    public var heads: Int
    /// Nil for one full-rank query projection.
    public var queryRank: Int?
    public var latentRank: Int
    public var nopeSize: Int
    public var ropeSize: Int
    public var valueSize: Int
    /// Inner widths of the dense networks and of one expert, where `config.json` gives them.
    public var intermediateSize: Int?
    public var expertSize: Int?
    public var vocabulary: Int
    public var epsilon: Double
    public var router: Router?
    public var rotary: Rotary
    /// Multi-token-prediction modules stored after the layers.
    public var mtpModules: Int

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
        /// `e_score_correction_bias` takes part in the choice, not in the weights.
        public var hasSelectionBias: Bool
        public var sharedExperts: Int
    }

    public struct Rotary: Sendable, Equatable {
        public var base: Double
        public var yarn: YaRN?

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

    public static let knownTypes: Set<String> = ["deepseek_v3", "deepseek_v2", "kimi_k2"]

    public init(config root: JSONValue) throws {
        let type = root["model_type"]?.string ?? "an unknown model_type"
        guard Self.knownTypes.contains(type) else { throw ReferenceFailure.architecture(type) }
        func optional(_ field: String) throws -> Int? {
            guard let value = root[field], value != .null else { return nil }
            guard let number = value.int, number >= 0, number < 1 << 24 else {
                throw ReferenceFailure.badField(field, reason: "is no usable whole number")
            }
            return number
        }
        func required(_ field: String) throws -> Int {
            guard let number = try optional(field) else { throw ReferenceFailure.missingField(field) }
            guard number > 0 else { throw ReferenceFailure.badField(field, reason: "is 0") }
            return number
        }
        hiddenSize = try required("hidden_size")
        layers = try required("num_hidden_layers")
        denseLayers = try optional("first_k_dense_replace") ?? 0
        heads = try required("num_attention_heads")
        queryRank = try optional("q_lora_rank").flatMap { $0 > 0 ? $0 : nil }
        latentRank = try required("kv_lora_rank")
        nopeSize = try required("qk_nope_head_dim")
        ropeSize = try required("qk_rope_head_dim")
        valueSize = try required("v_head_dim")
        intermediateSize = try optional("intermediate_size")
        expertSize = try optional("moe_intermediate_size")
        vocabulary = try required("vocab_size")
        epsilon = root["rms_norm_eps"]?.double ?? 1e-6
        mtpModules = try optional("num_nextn_predict_layers") ?? 0
        guard ropeSize % 2 == 0 else { throw ReferenceFailure.badField("qk_rope_head_dim", reason: "is odd") }
        rotary = try Rotary(root)
        router = try Router(root, isV2: type == "deepseek_v2", experts: try optional("n_routed_experts") ?? 0)
        if router == nil { denseLayers = layers }
    }
}

extension ModelConfiguration.Router {
    fileprivate init?(_ root: JSONValue, isV2: Bool, experts: Int) throws {
        guard experts > 0 else { return nil }
        func count(_ field: String, _ fallback: Int) -> Int { max(1, root[field]?.int ?? fallback) }
        self.experts = experts
        expertsPerToken = count("num_experts_per_tok", 1)
        groups = count("n_group", 1)
        keptGroups = count("topk_group", 1)
        sharedExperts = root["n_shared_experts"]?.int ?? 0
        normalises = root["norm_topk_prob"]?.bool ?? !isV2
        scalingFactor = Float(root["routed_scaling_factor"]?.double ?? 1)
        scoring = root["scoring_func"]?.string == "softmax" || isV2 && root["scoring_func"]?.string != "sigmoid" ? .softmax : .sigmoid
        hasSelectionBias = !isV2
        let method = root["topk_method"]?.string ?? (isV2 ? "greedy" : "noaux_tc")
        groupScore = method == "greedy" || groups == 1 ? .none : method == "group_limited_greedy" ? .largest : .twoLargest
        guard experts % groups == 0, keptGroups <= groups, expertsPerToken <= experts,
            groupScore == .none || expertsPerToken <= experts / groups * keptGroups, groupScore != .twoLargest || experts / groups >= 2
        else { throw ReferenceFailure.badField("n_group", reason: "does not fit the experts") }
    }
}

extension ModelConfiguration.Rotary {
    fileprivate init(_ root: JSONValue) throws {
        // Older configurations say rope_scaling and rope_theta, newer ones rope_parameters with both inside.
        let parameters = [root["rope_parameters"], root["rope_scaling"]].lazy.compactMap { $0?.object }.first
        base = parameters?["rope_theta"]?.double ?? root["rope_theta"]?.double ?? 10000
        let kind = parameters?["rope_type"]?.string ?? parameters?["type"]?.string ?? "default"
        guard let parameters, kind != "default" else { return }
        guard kind == "yarn" else { throw ReferenceFailure.badField("rope_scaling", reason: "is of the unknown type \(kind)") }
        guard let factor = parameters["factor"]?.double else { throw ReferenceFailure.missingField("rope_scaling.factor") }
        yarn = YaRN(
            factor: factor,
            originalLength: parameters["original_max_position_embeddings"]?.double ?? root["max_position_embeddings"]?.double ?? 4096,
            betaFast: parameters["beta_fast"]?.double ?? 32, betaSlow: parameters["beta_slow"]?.double ?? 1,
            mscale: parameters["mscale"]?.double, mscaleAllDimensions: parameters["mscale_all_dim"]?.double,
            attentionFactor: parameters["attention_factor"]?.double)
    }
}
