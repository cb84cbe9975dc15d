import Architectures
import StrictJSON

/// What llama.cpp calls an architecture, and which keys its loader reads, in the order in which the converter writes them.
struct LlamaCppArchitecture: Sendable {
    let name: String
    let modelTypes: Set<String>
    /// The type and the class that a file's `config.json` names.
    let hub: (type: String, model: String)
    /// Its usual way of cutting text.
    let preTokenizer: String
    /// A key of the architecture and the field of config.json that it is, after the keys that all have.
    let fields: [Field]
    /// Names that are other than ``LlamaCppNames/inner``.
    var names: [ModuleRole: String] = [:]
    /// What `config.json` calls the number of experts.
    var expertsField = "num_experts"
    /// What `config.json` says besides, and no key does.
    var constants: JSONObject = [:]
    /// Fields of `config.json` that say whether there are tensors, and how those end.
    var presences: [String: String] = [:]
    /// Whether the modules that predict further tokens are blocks of a file, as the converter writes it.
    var holdsPrediction = false
    /// Whether llama.cpp loads such blocks, be they written or not.
    var readsPrediction = false
    /// Whether keys and values come out of a latent.
    var isLatent = false
    /// Whether queries, keys and values always have biases.
    var isBiased = false
    /// Whether the output of an attention may have a bias.
    var takesOutputBias = false
    /// Whether the pairs of channels that turn together lie side by side in the rows of queries and keys, and not in two halves as in `config.json`'s
    /// model; Llama 3's stretched rotation is then a tensor of factors.
    var pairsHalves = false
    /// Whether llama.cpp rounds the pairs between which YaRN mixes although the model does not, and everybody runs it so.
    var roundsYaRN = false

    /// A key of the architecture: what it is of a model, and which field of `config.json` it becomes when a file is read.
    struct Field: Sendable {
        let key: String
        /// Nil for what `config.json` says otherwise, or has no word for.
        let name: String?
        /// What the field is where a file has no such key.
        var absent: JSONValue?
        /// Whether `config.json` has it as a share of a head's width.
        var isShareOfHead = false
        /// Whether nothing is written where `config.json` has no such field.
        var isOptional = false
        /// Nil where nothing is written.
        let value: @Sendable (ModelConfiguration) -> GGUFValue?

        static func count(_ key: String, _ name: String?, isShareOfHead: Bool = false, _ value: @escaping @Sendable (ModelConfiguration) -> Int?)
            -> Field
        {
            Field(key: key, name: name, isShareOfHead: isShareOfHead) { value($0).flatMap(UInt32.init(exactly:)).map(GGUFValue.u32) }
        }

        static func number(_ key: String, _ name: String?, _ value: @escaping @Sendable (ModelConfiguration) -> Double?) -> Field {
            Field(key: key, name: name) { value($0).map { .f32(Float($0)) } }
        }

        /// Whether the weights of the chosen experts are divided by their sum; llama.cpp takes a missing key for no.
        static func normalises(writesFalse: Bool) -> Field {
            Field(key: "expert_weights_norm", name: "norm_topk_prob", absent: .bool(false)) { model in
                model.router.flatMap { $0.normalises || writesFalse ? .bool($0.normalises) : nil }
            }
        }

        static let expertWidth = count("expert_feed_forward_length", "moe_intermediate_size") { $0.expertSize }
        static let sharedExperts = count("expert_shared_count", "n_shared_experts") { $0.router?.sharedExperts }
        static let denseLayers = count("leading_dense_block_count", "first_k_dense_replace") { $0.denseLayers }
        static let scale = number("expert_weights_scale", "routed_scaling_factor") { $0.router.map { Double($0.scalingFactor) } }
        static let predictionLayers = count("nextn_predict_layers", "num_nextn_predict_layers") { $0.mtpModules }
        /// Written where there are any.
        static let heldPredictionLayers = count("nextn_predict_layers", "num_nextn_predict_layers") { $0.mtpModules > 0 ? $0.mtpModules : nil }
        /// Written where `config.json` counts them, be it none.
        static let saidPredictionLayers = Field(key: "nextn_predict_layers", name: "num_nextn_predict_layers", isOptional: true) {
            UInt32(exactly: $0.mtpModules).map(GGUFValue.u32)
        }
        static let scoring = Field(key: scoringKey, name: nil) { $0.router.map { .u32($0.scoring == .softmax ? 1 : 2) } }
    }

    /// The gate's scoring; where a file has no such key, llama.cpp takes softmax.
    static let scoringKey = "expert_gating_func"

    /// What all models with a latent have.
    private static let latent: [Field] = [
        .denseLayers, .count("vocab_size", "vocab_size") { $0.vocabulary }, .count("attention.q_lora_rank", "q_lora_rank") { $0.latent?.queryRank },
        .count("attention.kv_lora_rank", "kv_lora_rank") { $0.latent?.latentRank },
        .count("attention.key_length_mla", nil) { $0.latent.map { $0.nopeSize + $0.ropeSize } },
        .count("attention.value_length_mla", nil) { $0.latent?.valueSize }, .expertWidth, .sharedExperts, .scale,
        .normalises(writesFalse: false), .count("rope.dimension_count", "qk_rope_head_dim") { $0.attention.ropeSize },
        // A tenth: its loader undoes it (llama.cpp pull request 17945).
        .number("rope.scaling.yarn_log_multiplier", nil) { $0.rotary.yarn?.mscaleAllDimensions.map { 0.1 * $0 } },
    ]

    private static let indexer: [Field] = [
        .count("attention.indexer.head_count", "index_n_heads") { $0.indexer?.heads },
        .count("attention.indexer.key_length", "index_head_dim") { $0.indexer?.headSize },
        .count("attention.indexer.top_k", "index_topk") { $0.indexer?.keptTokens },
    ]

    /// Which layers have an indexer of their own.
    static let indexerTypesKey = "attention.indexer.types"
    private static let indexerTypes = Field(key: indexerTypesKey, name: "indexer_types", isOptional: true) { model in
        model.indexer.map { indexer in .array(.bools((0..<model.layers).map { !indexer.sharingLayers.contains($0) })) }
    }

    static let known = [
        LlamaCppArchitecture(
            name: "deepseek2", modelTypes: ["deepseek_v2", "deepseek_v3", "kimi_k2", "kimi_k25"], hub: ("deepseek_v3", "DeepseekV3ForCausalLM"),
            preTokenizer: "deepseek-v3",
            fields: latent + [.heldPredictionLayers], expertsField: "n_routed_experts", readsPrediction: true, isLatent: true),
        LlamaCppArchitecture(
            name: "deepseek2", modelTypes: ["glm4_moe_lite"], hub: ("glm4_moe_lite", "Glm4MoeLiteForCausalLM"), preTokenizer: "glm4",
            fields: latent + [.heldPredictionLayers],
            expertsField: "n_routed_experts", holdsPrediction: true, readsPrediction: true, isLatent: true),
        LlamaCppArchitecture(
            name: "deepseek32", modelTypes: ["deepseek_v32"], hub: ("deepseek_v32", "DeepseekV32ForCausalLM"), preTokenizer: "deepseek-v3",
            fields: latent + [.saidPredictionLayers] + indexer, expertsField: "n_routed_experts", holdsPrediction: true, readsPrediction: true,
            isLatent: true),
        LlamaCppArchitecture(
            name: "glm-dsa", modelTypes: ["glm_moe_dsa"], hub: ("glm_moe_dsa", "GlmMoeDsaForCausalLM"), preTokenizer: "glm4",
            fields: latent + [.saidPredictionLayers] + indexer + [indexerTypes], expertsField: "n_routed_experts", holdsPrediction: true,
            readsPrediction: true,
            isLatent: true),
        LlamaCppArchitecture(
            name: "llama", modelTypes: ["llama"], hub: ("llama", "LlamaForCausalLM"), preTokenizer: "llama-bpe",
            fields: [
                .count("vocab_size", "vocab_size") { $0.vocabulary }, .count("rope.dimension_count", nil) { $0.attention.ropeSize },
            ],
            constants: ["mlp_bias": .bool(false)], presences: ["attention_bias": ".attn_q.bias"], takesOutputBias: true, pairsHalves: true),
        LlamaCppArchitecture(
            name: "qwen2", modelTypes: ["qwen2"], hub: ("qwen2", "Qwen2ForCausalLM"), preTokenizer: "qwen2", fields: [], isBiased: true),
        LlamaCppArchitecture(name: "qwen3", modelTypes: ["qwen3"], hub: ("qwen3", "Qwen3ForCausalLM"), preTokenizer: "qwen2", fields: []),
        LlamaCppArchitecture(
            name: "qwen3moe", modelTypes: ["qwen3_moe"], hub: ("qwen3_moe", "Qwen3MoeForCausalLM"), preTokenizer: "qwen2",
            fields: [.expertWidth],
            // Its loader always normalises the chosen experts' weights.
            constants: ["norm_topk_prob": .bool(true), "decoder_sparse_step": .int(1), "mlp_only_layers": .array([])]),
        LlamaCppArchitecture(
            name: "glm4moe", modelTypes: ["glm4_moe"], hub: ("glm4_moe", "Glm4MoeForCausalLM"), preTokenizer: "glm4",
            fields: [
                .count("rope.dimension_count", "partial_rotary_factor", isShareOfHead: true) { $0.attention.ropeSize }, .expertWidth,
                .sharedExperts, .denseLayers, .scoring, .scale, .normalises(writesFalse: true),
                .predictionLayers,
            ],
            names: [.postAttentionNorm: "post_attention_norm"], expertsField: "n_routed_experts",
            presences: ["attention_bias": ".attn_q.bias", "use_qk_norm": ".attn_q_norm.weight"], holdsPrediction: true, readsPrediction: true),
        LlamaCppArchitecture(
            name: "minimax-m2", modelTypes: ["minimax_m2"], hub: ("minimax_m2", "MiniMaxM2ForCausalLM"), preTokenizer: "minimax-m2",
            fields: [
                .count("expert_feed_forward_length", "intermediate_size") { $0.expertSize },
                .count("rope.dimension_count", "rotary_dim") { $0.attention.ropeSize },
            ],
            expertsField: "num_local_experts",
            constants: ["scoring_func": .string("sigmoid"), "use_routing_bias": .bool(true), "use_qk_norm": .bool(true)]),
        LlamaCppArchitecture(
            name: "gpt-oss", modelTypes: ["gpt_oss"], hub: ("gpt_oss", "GptOssForCausalLM"), preTokenizer: "gpt-4o",
            fields: [
                .count("attention.sliding_window", "sliding_window") { $0.window?.size },
                .count("expert_feed_forward_length", "intermediate_size") { $0.expertSize },
            ],
            names: [.postAttentionNorm: "post_attention_norm"], expertsField: "num_local_experts", constants: ["attention_bias": .bool(true)],
            isBiased: true, roundsYaRN: true),
    ]

    static func named(_ architecture: Architecture) -> LlamaCppArchitecture? {
        known.first { !$0.modelTypes.isDisjoint(with: architecture.modelTypes) }
    }

    static func called(_ name: String) -> LlamaCppArchitecture? { known.first { $0.name == name } }

    /// The stored name of a module; nil where llama.cpp has none.
    func module(_ place: ModulePlace) -> String? {
        guard let layer = place.layer else { return LlamaCppNames.outer[place.role] }
        return (names[place.role] ?? LlamaCppNames.inner[place.role]).map { "blk.\(layer).\($0)" }
    }
}

extension ModelConfiguration {
    /// Nil where keys and values come out of no latent.
    fileprivate var latent: Attention.Latent? { if case .latent(let latent) = attention { latent } else { nil } }
}
