/// What is known of a family of models: its modules by role under their canonical (Hugging Face) names, and what programs do with them. Data only;
/// the arithmetic of a role is a part of ReferenceModels, the spelling of another dialect is that dialect's.
///
/// One file a family, listed in ``Architecture/known``. Where an architecture is not known, ``InferredRoles`` speaks for its modules by their names.
package struct Architecture: Sendable, Equatable, CustomStringConvertible {
    /// As the plan and reports call it.
    package let name: String
    /// `model_type` of the configurations that it reads.
    package let modelTypes: Set<String>
    /// The name, `#` for the layer, of the parameter that takes part in the choice of experts only, not in their weights; nil if there is none.
    let selectionBias: String?
    /// The name, `#` for the layer, of logits that join the softmax of each head and stand for no token; nil if there are none.
    let sinks: String?
    /// Modules that engines load as one matrix.
    let fused: [FusedModules]
    /// Where the scales of inputs are undone exactly (AWQ).
    let folds: [Fold]
    /// What compressed-tensors' `ignore` says of the modules that stay unquantized.
    package let ignorePatterns: [String]
    /// Whether what stays unquantized in block-scaled FP8 is wired into the readers of `quant_method: fp8`, as for DeepSeek's releases. Otherwise
    /// routers, heads and the like are named in `modules_to_not_convert`, as the FP8 releases of other families do.
    package let wiresFP8Exemptions: Bool
    /// Whether vLLM makes its routers as it makes other linear layers, so that a layout whose list has no patterns must name them.
    package let listsRouters: Bool
    /// What stands beside the language model (towers, projectors) and is carried as it is: the first words of its names.
    package let carried: [String]
    /// Whether transformers takes the experts of a layer in stacks only, and fills in random numbers for others.
    package let needsStacks: Bool
    /// The class of transformers that the logits are held against.
    package let oracle: String
    /// Reads `config.json`, and refuses what this family does not have.
    let configuration: @Sendable (ConfigurationReader, Architecture) throws -> ModelConfiguration

    private let table: NameTable

    init(
        name: String, modelTypes: Set<String>, names: [ModuleRole: String], selectionBias: String? = nil, sinks: String? = nil,
        fused: [FusedModules], folds: [Fold],
        ignorePatterns: [String], wiresFP8Exemptions: Bool = false, listsRouters: Bool = false, carried: [String] = [], needsStacks: Bool = false,
        oracle: String,
        configuration: @escaping @Sendable (ConfigurationReader, Architecture) throws -> ModelConfiguration
    ) {
        self.name = name
        self.modelTypes = modelTypes
        self.selectionBias = selectionBias
        self.sinks = sinks
        self.fused = fused
        self.folds = folds
        self.ignorePatterns = ignorePatterns
        self.wiresFP8Exemptions = wiresFP8Exemptions
        self.listsRouters = listsRouters
        self.carried = carried
        self.needsStacks = needsStacks
        self.oracle = oracle
        self.configuration = configuration
        table = NameTable(names)
    }

    package var description: String { name }

    package static func == (a: Architecture, b: Architecture) -> Bool { a.name == b.name }

    /// The registry: a line a family.
    package static let known: [Architecture] = [
        .deepSeek, .qwen3MoE, .qwen3, .llama, .glm4MoE, .glm4MoELite, .miniMaxM2, .hunyuanV3, .gptOss, .kimiK25, .deepSeekV32, .glm5, .mistral4,
        .qwen2,
    ]

    /// The family of a `model_type`.
    package static func named(_ modelType: String?) -> Architecture? { modelType.flatMap { type in known.first { $0.modelTypes.contains(type) } } }

    /// Whether a module stands beside the language model.
    package func carries(_ module: some StringProtocol) -> Bool {
        carried.contains { module.hasPrefix($0) && (module.utf8.count == $0.utf8.count || module.utf8.dropFirst($0.utf8.count).first == 0x2E) }
    }

    // MARK: Names

    /// The canonical name of a module; nil if the family has none of this role.
    package func module(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String? {
        table.module(ModulePlace(role, layer: layer, expert: expert))
    }

    /// The canonical name of the parameter that takes part in the choice of experts only; nil if there is none.
    package func selectionBiasName(layer: Int) -> String? { selectionBias?.replacing("#", with: String(layer)) }

    /// The canonical name of the heads' sinks; nil if there are none.
    package func sinksName(layer: Int) -> String? { sinks?.replacing("#", with: String(layer)) }

    /// The place of a module by its canonical name; nil if the family knows none of this name.
    package func place(of module: some StringProtocol) -> ModulePlace? { table.place(of: module) }
}

/// Modules that engines load as one matrix, so that all must have one layout (and one scale of the tensor, where there is one).
package struct FusedModules: Sendable {
    /// The engines' name for the matrix.
    package let name: String
    package let roles: [ModuleRole]
    /// Whether quantizers give the tensors one range of values, so that their scales agree; false for those that only share a layout.
    package let sharesRange: SharedRange

    /// Whether these are the projections that an attention makes of its inputs: what exempts one of them from quantization exempts all.
    package var isOfAttention: Bool { roles.contains(.query) || roles.contains(.queryDown) }

    package enum SharedRange: Sendable {
        case never
        /// Where experts are apart from each other, and where they are not.
        case always
        /// ModelOpt's exporter only; llm-compressor leaves these apart.
        case byModelOpt
    }

    init(_ name: String, _ roles: [ModuleRole], sharesRange: SharedRange = .never) {
        self.name = name
        self.roles = roles
        self.sharesRange = sharesRange
    }
}

/// A module whose output leads into linear weights and nothing else that counts: their inputs' scales can be folded into it.
struct Fold: Sendable {
    /// A norm, or a linear weight whose rows are the others' columns.
    let source: ModuleRole
    /// What takes the scales.
    let into: [ModuleRole]
    /// What reads the same output and is not scaled: where one of these exists, nothing is folded.
    let beside: [ModuleRole]

    init(_ source: ModuleRole, into: [ModuleRole], beside: [ModuleRole] = []) {
        self.source = source
        self.into = into
        self.beside = beside
    }
}
