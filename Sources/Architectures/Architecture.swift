/// What is known of a family of models: its modules by role under their canonical (Hugging Face) names, and what programs do with them. Data only;
/// the arithmetic of a role is a part of ReferenceModels, the spelling of another dialect is that dialect's.
///
/// One file a family, listed in ``Architecture/known``. Where an architecture is not known, ``InferredRoles`` speaks for its modules by their names.
public struct Architecture: Sendable, Equatable, CustomStringConvertible {
    /// As the plan and reports call it.
    public let name: String
    /// `model_type` of the configurations that it reads.
    public let modelTypes: Set<String>
    /// The name, `#` for the layer, of the parameter that takes part in the choice of experts only, not in their weights; nil if there is none.
    let selectionBias: String?
    /// Modules that engines load as one matrix.
    let fused: [FusedModules]
    /// Where the scales of inputs are undone exactly (AWQ).
    let folds: [Fold]
    /// What compressed-tensors' `ignore` says of the modules that stay unquantized.
    public let ignorePatterns: [String]
    /// Reads `config.json`, and refuses what this family does not have.
    let configuration: @Sendable (ConfigurationReader, Architecture) throws -> ModelConfiguration

    private let table: NameTable

    init(
        name: String, modelTypes: Set<String>, names: [ModuleRole: String], selectionBias: String? = nil, fused: [FusedModules], folds: [Fold],
        ignorePatterns: [String], configuration: @escaping @Sendable (ConfigurationReader, Architecture) throws -> ModelConfiguration
    ) {
        self.name = name
        self.modelTypes = modelTypes
        self.selectionBias = selectionBias
        self.fused = fused
        self.folds = folds
        self.ignorePatterns = ignorePatterns
        self.configuration = configuration
        table = NameTable(names)
    }

    public var description: String { name }

    public static func == (a: Architecture, b: Architecture) -> Bool { a.name == b.name }

    /// The registry: a line a family.
    public static let known: [Architecture] = [.deepSeek, .qwen3MoE, .qwen3, .llama, .glm4MoE, .miniMaxM2, .deepSeekV32, .glm5]

    /// The family of a `model_type`.
    public static func named(_ modelType: String?) -> Architecture? { modelType.flatMap { type in known.first { $0.modelTypes.contains(type) } } }

    // MARK: Names

    /// The canonical name of a module; nil if the family has none of this role.
    public func module(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String? {
        table.module(ModulePlace(role, layer: layer, expert: expert))
    }

    /// The place of a module by its canonical name; nil if the family knows none of this name.
    public func place(of module: some StringProtocol) -> ModulePlace? { table.place(of: module) }
}

/// Modules that engines load as one matrix, so that all must have one layout (and one scale of the tensor, where there is one).
public struct FusedModules: Sendable {
    /// The engines' name for the matrix.
    public let name: String
    public let roles: [ModuleRole]
    /// Whether quantizers give the tensors one range of values, so that their scales agree; false for those that only share a layout.
    public let sharesRange: SharedRange

    public enum SharedRange: Sendable {
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
