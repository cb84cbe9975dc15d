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
    /// Whether the first projections of the attention and its last one have biases (`attention_bias`).
    public var hasAttentionBias: Bool
    /// Whether the embedding is the output head too (`tie_word_embeddings`).
    public var tiesHead: Bool
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
        /// Whether pairs (2i, 2i + 1) turn together, as DeepSeek's released weights have them, or the halves (i, i + n/2).
        public var isInterleaved: Bool

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

    /// - Throws: ``ReferenceFailure`` if a field is missing, is no number that can be, or changes the arithmetic in a way that is not known here.
    public init(config root: JSONValue) throws {
        let type = root["model_type"]?.string ?? "an unknown model_type"
        guard Self.knownTypes.contains(type) else { throw ReferenceFailure.architecture(type) }
        try Self.checkFields(root, isV2: type == "deepseek_v2")
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
        hasAttentionBias = try Self.flag(root, "attention_bias") ?? false
        tiesHead = try Self.flag(root, "tie_word_embeddings") ?? false
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
        epsilon = try Self.number(root, "rms_norm_eps") ?? 1e-6
        guard epsilon >= 0, epsilon < 1 else { throw ReferenceFailure.badField("rms_norm_eps", reason: "is \(epsilon)") }
        mtpModules = try optional("num_nextn_predict_layers") ?? 0
        guard ropeSize % 2 == 0 else { throw ReferenceFailure.badField("qk_rope_head_dim", reason: "is odd") }
        rotary = try Rotary(root)
        router = try Router(root, isV2: type == "deepseek_v2", experts: try optional("n_routed_experts") ?? 0)
        if router == nil { denseLayers = layers }
    }
}

extension ModelConfiguration {
    /// Fields that are read above, or whose only known value is checked.
    private static let readFields: Set<String> = [
        "model_type", "hidden_size", "num_hidden_layers", "first_k_dense_replace", "num_attention_heads", "num_key_value_heads", "q_lora_rank",
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size", "moe_intermediate_size", "vocab_size",
        "rms_norm_eps", "num_nextn_predict_layers", "n_routed_experts", "num_experts_per_tok", "n_group", "topk_group", "n_shared_experts",
        "norm_topk_prob", "routed_scaling_factor", "scoring_func", "topk_method", "rope_parameters", "rope_scaling", "rope_theta",
        "max_position_embeddings", "attention_bias", "rope_interleave", "tie_word_embeddings", "hidden_act", "moe_layer_freq",
    ]

    /// Fields that say nothing about the arithmetic of a trained model: names and versions, number types and quantization (which the tensors tell),
    /// special tokens, training, generation, and how a program divides its work. Sources: huggingface/transformers:configuration_utils.py
    /// (`PreTrainedConfig`) and models/deepseek_v2, deepseek_v3; deepseek-ai/DeepSeek-V3:configuration_deepseek.py.
    private static let idleFields: Set<String> = [
        "architectures", "auto_map", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "torch_dtype", "dtype",
        "quantization_config", "compression_config", "quantization", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
        "decoder_start_token_id", "use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "aux_loss_alpha", "seq_aux",
        "pretraining_tp", "ep_size", "output_router_logits", "router_aux_loss_coef", "head_dim", "qk_head_dim", "num_local_experts",
        "num_mtp_layers", "return_dict", "output_attentions", "output_hidden_states", "problem_type", "id2label", "label2id", "finetuning_task",
        "task_specific_params", "tokenizer_class", "chunk_size_feed_forward", "_attn_implementation", "attn_implementation",
        "_attn_implementation_autoset", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
        "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "num_return_sequences",
        "encoder_no_repeat_ngram_size", "no_repeat_ngram_size", "remove_invalid_values", "use_bfloat16", "torchscript", "mlp_bias",
        "unsloth_version", "unsloth_fixed", "language_model_only", "is_decoder", "model_max_length",
    ]

    /// Refuses values that change the arithmetic in a way that is not known here, and unknown fields that are not at rest.
    private static func checkFields(_ root: JSONValue, isV2: Bool) throws {
        func only(_ field: String, _ values: [JSONValue]) throws {
            guard let value = root[field], value != .null, !values.contains(value) else { return }
            throw ReferenceFailure.badField(field, reason: "is \(value.text(pretty: false)), which this forward pass does not have")
        }
        try only("hidden_act", [.string("silu"), .string("swish")])
        try only("moe_layer_freq", [.int(1)])
        try only("mlp_bias", [.bool(false)])
        try only("scoring_func", [.string("sigmoid"), .string("softmax")])
        try only("topk_method", ["noaux_tc", "greedy", "group_limited_greedy"].map { .string($0) })
        if isV2 { try only("rope_interleave", [.bool(true)]) }
        if let heads = root["num_attention_heads"], let keys = root["num_key_value_heads"], keys != .null, keys != heads {
            throw ReferenceFailure.badField("num_key_value_heads", reason: "is not num_attention_heads; latent attention has one key for each head")
        }
        for (field, value) in root.object?.members ?? [] where !readFields.contains(field) && !idleFields.contains(field) {
            guard !isAtRest(value) else { continue }
            throw ReferenceFailure.badField(
                field,
                reason: "is \(value.text(pretty: false).prefix(60)), and what it does to the arithmetic is not known here; remove it if nothing")
        }
    }

    /// Whether a field's value switches nothing on.
    private static func isAtRest(_ value: JSONValue) -> Bool {
        switch value {
        case .null, .bool(false): true
        case .object(let object): object.members.isEmpty
        case .array(let elements): elements.isEmpty
        case .string(let text): text.isEmpty
        case .number, .bool(true): false
        }
    }

    fileprivate static func flag(_ root: JSONValue, _ field: String) throws -> Bool? {
        guard let value = root[field], value != .null else { return nil }
        guard let flag = value.bool else { throw ReferenceFailure.badField(field, reason: "is neither true nor false") }
        return flag
    }

    fileprivate static func number(_ root: JSONValue, _ field: String) throws -> Double? {
        guard let value = root[field], value != .null else { return nil }
        guard let number = value.double, number.isFinite else { throw ReferenceFailure.badField(field, reason: "is no number") }
        return number
    }

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

extension ModelConfiguration.Router {
    fileprivate init?(_ root: JSONValue, isV2: Bool, experts: Int) throws {
        guard experts > 0 else { return nil }
        func count(_ field: String, _ fallback: Int) throws -> Int {
            guard let value = root[field], value != .null else { return fallback }
            guard let number = value.int, number >= 0, number < 1 << 24 else {
                throw ReferenceFailure.badField(field, reason: "is no usable whole number")
            }
            return number
        }
        self.experts = experts
        expertsPerToken = try count("num_experts_per_tok", 1)
        groups = try max(1, count("n_group", 1))
        keptGroups = try max(1, count("topk_group", 1))
        sharedExperts = try count("n_shared_experts", 0)
        guard expertsPerToken > 0 else { throw ReferenceFailure.badField("num_experts_per_tok", reason: "is 0") }
        normalises = try ModelConfiguration.flag(root, "norm_topk_prob") ?? !isV2
        scalingFactor = Float(try ModelConfiguration.number(root, "routed_scaling_factor") ?? 1)
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
        // Older configurations say rope_scaling and rope_theta, newer ones rope_parameters with both inside; one may hold both if they agree.
        for name in ["rope_parameters", "rope_scaling"] {
            guard let value = root[name], value != .null else { continue }
            guard let object = value.object else { throw ReferenceFailure.badField(name, reason: "is no object") }
            for field in ["rope_type", "type"] {
                if let kind = object[field], kind.string == nil { throw ReferenceFailure.badField("\(name).\(field)", reason: "is no text") }
            }
            // Something is scaled, and nothing says how.
            if object["factor"] != nil, object["rope_type"] == nil, object["type"] == nil { throw ReferenceFailure.missingField("\(name).rope_type") }
        }
        let described = ["rope_parameters", "rope_scaling"].compactMap { name in root[name]?.object.map { (name: name, object: $0) } }
        if described.count == 2 {
            for (key, value) in described[0].object.members {
                guard let other = described[1].object[key], other.double != value.double || other.double == nil && other != value else { continue }
                throw ReferenceFailure.badField("rope_parameters", reason: "and rope_scaling say different things of \(key)")
            }
        }
        let parameters = described.first?.object
        func number(_ field: String) throws -> Double? {
            guard let value = parameters?[field], value != .null else { return nil }
            guard let number = value.double, number.isFinite else {
                throw ReferenceFailure.badField("\(described[0].name).\(field)", reason: "is no number")
            }
            return number
        }
        let outer = try ModelConfiguration.number(root, "rope_theta")
        let inner = try number("rope_theta")
        if let outer, let inner, outer != inner { throw ReferenceFailure.badField("rope_theta", reason: "is given twice: \(outer) and \(inner)") }
        base = inner ?? outer ?? 10000
        guard base > 1 else { throw ReferenceFailure.badField("rope_theta", reason: "is \(base)") }
        isInterleaved = try ModelConfiguration.flag(root, "rope_interleave") ?? true
        let kind = parameters?["rope_type"]?.string ?? parameters?["type"]?.string ?? "default"
        if let one = parameters?["rope_type"]?.string, let other = parameters?["type"]?.string, one != other {
            throw ReferenceFailure.badField("rope_scaling", reason: "says rope_type \(one) and type \(other)")
        }
        let known: Set<String> = [
            "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
            "attention_factor",
        ]
        if let field = parameters?.members.first(where: { !known.contains($0.key) && $0.value != .null && $0.value != .bool(false) })?.key {
            throw ReferenceFailure.badField("rope_scaling.\(field)", reason: "is not known here")
        }
        guard let parameters, kind != "default" else { return }
        _ = parameters
        guard kind == "yarn" else { throw ReferenceFailure.badField("rope_scaling", reason: "is of the unknown type \(kind)") }
        guard let factor = try number("factor") else { throw ReferenceFailure.missingField("rope_scaling.factor") }
        guard factor > 0 else { throw ReferenceFailure.badField("rope_scaling.factor", reason: "is \(factor)") }
        yarn = YaRN(
            factor: factor,
            originalLength: try number("original_max_position_embeddings") ?? ModelConfiguration.number(root, "max_position_embeddings") ?? 4096,
            betaFast: try number("beta_fast") ?? 32, betaSlow: try number("beta_slow") ?? 1, mscale: try number("mscale"),
            mscaleAllDimensions: try number("mscale_all_dim"), attentionFactor: try number("attention_factor"))
        guard let yarn, yarn.originalLength > 0, yarn.betaFast > 0, yarn.betaSlow > 0 else {
            throw ReferenceFailure.badField("rope_scaling", reason: "holds a length or a number of turns that is not above 0")
        }
    }
}
