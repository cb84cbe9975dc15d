/// What is known of a model's modules: by its architecture where that is known, otherwise inferred from their names by one set of rules.
package struct ModelRoles: Sendable {
    /// Nil where the architecture is not known and roles are inferred.
    package let architecture: Architecture?

    /// How many layers come before those that predict further tokens; nil where config.json does not say.
    package let layers: Int?

    package init(_ architecture: Architecture?, layers: Int? = nil) {
        self.architecture = architecture
        self.layers = layers
    }

    /// The place of a module; nil where nothing is known of it.
    package func place(of module: some StringProtocol) -> ModulePlace? {
        if let place = architecture?.place(of: module) { return place }
        return InferredRoles.place(of: String(module))
    }

    /// Whether the family's experts have gate and up as one matrix.
    package var joinsGateAndUp: Bool { architecture?.module(.expertGateUp) != nil }

    /// Whether a module is a linear layer to some reader although it stays unquantized by its role: a router, a head.
    package func isExemptLinear(_ module: String) -> Bool {
        switch place(of: module)?.role {
        case .router, .head, .predictionJoin, .predictionHead, .sharedExpertSwitch: true
        default: false
        }
    }

    /// Whether readers of `quant_method: fp8` know by themselves which modules stay unquantized.
    package var wiresFP8Exemptions: Bool { architecture?.wiresFP8Exemptions ?? false }

    /// Why the field leaves a module unquantized.
    package struct Exemption: Sendable, Equatable {
        package let reason: String
        /// Whether ``ignorePatterns`` or the consumers' own model code exempt the module already.
        package let isImplied: Bool

        static let prediction = Exemption(reason: "multi-token prediction, unquantized for the readers of this layout", isImplied: false)
        static let indexerKeys = Exemption(reason: "indexer keys, read as BF16 or FP8 only", isImplied: false)

        package init(reason: String, isImplied: Bool) {
            self.reason = reason
            self.isImplied = isImplied
        }
    }

    /// Why a module stays unquantized by default, as DeepSeek's releases and llm-compressor's recipes have it; nil if it is quantized.
    /// - Parameters:
    ///   - isNarrow: whether the layout that is asked for has less than FP8's eight bits, or other ones.
    ///   - leavesPrediction: whether its readers take layers that predict further tokens as they are released.
    package func exemption(of module: String, isNarrow: Bool = false, leavesPrediction: Bool = false) -> Exemption? {
        if leavesPrediction, let layers, let layer = WeightName.layer(module + "."), layer >= layers { return .prediction }
        if let role = architecture?.place(of: module)?.role {
            // vLLM makes one unquantized matrix of an indexer's keys and head weights; FP8 is decoded as it is loaded, and nothing narrower is
            // (vllm/models/deepseek_v32, `wk_weights_proj`).
            if role == .indexerKey, isNarrow { return .indexerKeys }
            return role.exemption
        }
        if architecture?.carries(module) == true { return Exemption(reason: "beside the language model", isImplied: false) }
        return InferredRoles.exemption(of: module, isNarrow: isNarrow)
    }

    /// What compressed-tensors' `ignore` says of the modules that stay unquantized.
    package var ignorePatterns: [String] { architecture?.ignorePatterns ?? Architecture.deepSeek.ignorePatterns }

    /// The module that puts out logits, as most families call it where the architecture is not known.
    package var head: String { architecture?.module(.head) ?? InferredRoles.leaves[.head] ?? "" }

    // MARK: What belongs together

    /// The modules that engines load as one matrix with this one, itself among them; nil if it stays alone.
    package func fusion(of module: String) -> (fused: FusedModules, modules: [String])? {
        guard let place = place(of: module), let fused = fusions.first(where: { $0.roles.contains(place.role) }) else { return nil }
        return (fused, fused.roles.compactMap { sibling(of: module, $0) })
    }

    /// Modules whose weights share the range of this one's where one scale spans a whole tensor.
    /// - Parameter byModelOpt: as ModelOpt's exporter joins them, otherwise as llm-compressor does.
    package func rangePartners(of module: String, byModelOpt: Bool) -> [String] {
        guard let (fused, modules) = fusion(of: module) else { return [] }
        switch fused.sharesRange {
        case .never: return []
        case .byModelOpt where !byModelOpt: return []
        case .always, .byModelOpt: return modules.filter { $0 != module }
        }
    }

    private var fusions: [FusedModules] { architecture?.fused ?? InferredRoles.fused }

    /// The module of another role beside this one.
    private func sibling(of module: String, _ role: ModuleRole) -> String? {
        if let place = architecture?.place(of: module) { return architecture?.module(role, layer: place.layer, expert: place.expert) }
        return InferredRoles.leaves[role].map { leaf in
            (module.lastIndex(of: ".").map { String(module[...$0]) } ?? "") + leaf
        }
    }

    // MARK: Where scales of inputs are undone

    /// The modules that read what a module puts out; nil if scales cannot be folded into it.
    package func readers(of module: String) -> [String]? {
        guard let architecture, let place = architecture.place(of: module), let fold = architecture.folds.first(where: { $0.source == place.role })
        else { return nil }
        return (fold.into + fold.beside).compactMap { architecture.module($0, layer: place.layer, expert: place.expert) }
    }

    /// What leads into a module and nothing else that counts: a norm, or a linear weight whose rows are the module's columns.
    package func source(before module: String) -> (module: String, isNorm: Bool)? {
        guard let architecture, let place = architecture.place(of: module),
            let fold = architecture.folds.first(where: { $0.into.contains(place.role) }),
            let name = architecture.module(fold.source, layer: place.layer, expert: place.expert)
        else { return nil }
        return (name, !fold.source.isLinear)
    }

    /// Whether a tensor takes part in the choice of experts only, which hangs on its last bits.
    package static func isSelectionBias(_ tensor: String) -> Bool { InferredRoles.isSelectionBias(tensor) }
}

extension ModuleRole {
    /// Why the field leaves modules of this role unquantized.
    var exemption: ModelRoles.Exemption? {
        switch self {
        case .head: .init(reason: "output head", isImplied: true)
        case .embedding, .predictionEmbedding: .init(reason: "embedding", isImplied: true)
        case .router: .init(reason: "router gate", isImplied: true)
        case .sharedExpertSwitch: .init(reason: "gate of the shared expert", isImplied: false)
        case .finalNorm, .inputNorm, .postAttentionNorm, .queryHeadNorm, .keyHeadNorm, .queryLatentNorm, .keyValueNorm, .indexerKeyNorm,
            .predictionEmbeddingNorm, .predictionStateNorm, .predictionNorm:
            .init(reason: "norm", isImplied: true)
        case .predictionJoin: .init(reason: "multi-token-prediction projection", isImplied: true)
        case .predictionHead: .init(reason: "multi-token-prediction head", isImplied: true)
        case .indexerHeadWeights: .init(reason: "indexer head weights", isImplied: false)
        case .rotaryFrequencies, .query, .key, .value, .output, .queryDown, .queryUp, .keyValueDown, .keyValueUp, .indexerQuery, .indexerKey, .gate,
            .up, .down, .expertGate, .expertUp, .expertDown, .expertGateUp, .sharedGate, .sharedUp, .sharedDown:
            nil
        }
    }
}
