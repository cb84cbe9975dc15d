/// Roles by name, for architectures that are not known: what could be a router, a gate or a small special matrix stays unquantized, and the plan
/// says that roles were inferred.
///
/// The rules, in their order: the patterns of ``exempt`` name what stays; the last word of a module's name, and whether `experts` or `shared_expert`
/// stands before it, names the projections of attention and feed-forward networks; everything else in a layer is a linear weight like any other.
enum InferredRoles {
    private static let exempt: [(pattern: ModulePattern, reason: String, isImplied: Bool)] = [
        (ModulePattern(glob: "*lm_head"), "output head", true),
        (ModulePattern(glob: "*embed_tokens"), "embedding", true),
        (ModulePattern(glob: "*mlp.gate"), "router gate", true),
        (ModulePattern(glob: "*.gate"), "router gate", false),
        (ModulePattern(glob: "*.gate.*"), "router gate", false),
        (ModulePattern(glob: "*moe_gate*"), "router gate", false),
        (ModulePattern(glob: "*gating*"), "router gate", false),
        (ModulePattern(glob: "*gate_network*"), "router gate", false),
        (ModulePattern(glob: "*.wg"), "router gate", false),
        (ModulePattern(glob: "*routing*"), "router", false),
        (ModulePattern(glob: "*expert_selector*"), "router", false),
        (ModulePattern(glob: "*shared_gate"), "gate of the shared expert", false),
        (ModulePattern(glob: "*shared_experts_gate"), "gate of the shared expert", false),
        (ModulePattern(glob: "*router*"), "router", false),
        (ModulePattern(glob: "*classifier*"), "router or classification head", false),
        (ModulePattern(glob: "*shared_expert_gate"), "gate of the shared expert", false),
        (ModulePattern(glob: "*expert_gate"), "gate of an expert", false),
        (ModulePattern(glob: "*norm"), "norm", true),
        (ModulePattern(glob: "*eh_proj"), "multi-token-prediction projection", true),
        (ModulePattern(glob: "*shared_head*"), "multi-token-prediction head", true),
        (ModulePattern(glob: "*.weights_proj"), "indexer head weights", false),
        (ModulePattern(glob: "*vision*"), "vision tower", false),
        (ModulePattern(glob: "*visual*"), "vision tower", false),
        (ModulePattern(glob: "*image_*"), "vision tower", false),
        (ModulePattern(glob: "*audio_*"), "audio tower", false),
        (ModulePattern(glob: "*.audio.*"), "audio tower", false),
        (ModulePattern(glob: "*speech_*"), "audio tower", false),
        (ModulePattern(glob: "*_tower*"), "tower", false),
        (ModulePattern(glob: "vpm.*"), "vision tower", false),
        (ModulePattern(glob: "apm.*"), "audio tower", false),
        (ModulePattern(glob: "*vit.*"), "vision tower", false),
        (ModulePattern(glob: "*siglip*"), "vision tower", false),
        (ModulePattern(glob: "*sam_model*"), "vision tower", false),
        (ModulePattern(glob: "*_encoder*"), "encoder", false),
        (ModulePattern(glob: "*encoder.layers*"), "encoder", false),
        (ModulePattern(glob: "*resampler*"), "projector", false),
        (ModulePattern(glob: "*connector*"), "projector", false),
        (ModulePattern(glob: "*aligner*"), "projector", false),
        (ModulePattern(glob: "*perceiver*"), "projector", false),
        (ModulePattern(glob: "*merger*"), "projector", false),
        (ModulePattern(glob: "tts.*"), "speech model", false),
        (ModulePattern(glob: "*depformer*"), "speech model", false),
        (ModulePattern(glob: "*pos_embed*"), "embedding", false),
        (ModulePattern(glob: "*wte"), "embedding", false),
        (ModulePattern(glob: "*wpe"), "embedding", false),
        (ModulePattern(glob: "*mm_projector*"), "projector", false),
        (ModulePattern(glob: "*multi_modal_projector*"), "projector", false),
        (ModulePattern(glob: "*projector*"), "projector", false),
        (ModulePattern(glob: "*talker*"), "speech model", false),
        (ModulePattern(glob: "*token2wav*"), "speech model", false),
        (ModulePattern(glob: "*code2wav*"), "speech model", false),
        (ModulePattern(glob: "*score"), "classification head", false),
        (ModulePattern(glob: "*value_head*"), "value head", false),
        (ModulePattern(glob: "*v_head*"), "value head", false),
        (ModulePattern(glob: "*score_head*"), "classification head", false),
    ]

    static func exemption(of module: String, isNarrow: Bool) -> ModelRoles.Exemption? {
        if isNarrow, module.hasSuffix(".indexer.wk") { return .indexerKeys }
        return exempt.first { $0.pattern.matches(module) }.map { ModelRoles.Exemption(reason: $0.reason, isImplied: $0.isImplied) }
    }

    /// The last word of the names that most families use.
    static let leaves: [ModuleRole: String] = [
        .embedding: "embed_tokens", .head: "lm_head", .query: "q_proj", .key: "k_proj", .value: "v_proj", .output: "o_proj",
        .queryDown: "q_a_proj", .queryUp: "q_b_proj", .keyValueDown: "kv_a_proj_with_mqa", .keyValueUp: "kv_b_proj",
        .gate: "gate_proj", .up: "up_proj", .down: "down_proj", .expertGate: "gate_proj", .expertUp: "up_proj", .expertDown: "down_proj",
        .sharedGate: "gate_proj", .sharedUp: "up_proj", .sharedDown: "down_proj", .router: "gate",
    ]

    /// The roles of words that stand for one outside experts.
    private static let roles: [String: ModuleRole] = {
        let dense = leaves.filter { ![.expertGate, .expertUp, .expertDown, .sharedGate, .sharedUp, .sharedDown].contains($0.key) }
        return Dictionary(uniqueKeysWithValues: dense.map { ($0.value, $0.key) })
    }()

    static func place(of module: String) -> ModulePlace? {
        let words = module.split(separator: ".", omittingEmptySubsequences: false)
        guard let leaf = words.last, var role = roles[String(leaf)] else { return nil }
        func number(after word: Substring) -> Int? {
            words.firstIndex(of: word).flatMap { $0 + 1 < words.count ? Int(words[$0 + 1]) : nil }
        }
        let expert = number(after: "experts")
        let isShared = words.contains { $0.hasPrefix("shared_expert") }
        switch role {
        case .gate: role = expert != nil ? .expertGate : isShared ? .sharedGate : .gate
        case .up: role = expert != nil ? .expertUp : isShared ? .sharedUp : .up
        case .down: role = expert != nil ? .expertDown : isShared ? .sharedDown : .down
        default: break
        }
        return ModulePlace(role, layer: number(after: "layers"), expert: expert)
    }

    static let fused = [
        FusedModules("fused_qkv_a_proj", [.queryDown, .keyValueDown], sharesRange: .always),
        FusedModules("qkv_proj", [.query, .key, .value], sharesRange: .always),
        FusedModules("gate_up_proj", [.gate, .up], sharesRange: .always),
        FusedModules("gate_up_proj", [.sharedGate, .sharedUp], sharesRange: .byModelOpt),
        FusedModules("gate_up_proj", [.expertGate, .expertUp], sharesRange: .byModelOpt),
    ]

    static func isSelectionBias(_ tensor: String) -> Bool {
        ["e_score_correction_bias", ".expert_bias", ".gate.bias", ".router.bias"].contains { tensor.hasSuffix($0) }
    }
}
