/// What is known of a family of models: its modules by role under their canonical (Hugging Face) names, and what programs do with them. Data only;
/// the arithmetic of a role is a part of ReferenceModels, the spelling of another dialect is that dialect's.
///
/// One file a family, listed in ``Architecture/known``. Where an architecture is not known, ``InferredRoles`` speaks for its modules by their names.
public struct Architecture: Sendable, Equatable, CustomStringConvertible {
    /// As the plan and reports call it.
    public let name: String
    /// `model_type` of the configurations that it reads.
    public let modelTypes: Set<String>
    /// Canonical module names; `#` stands for the layer, a second one for the expert.
    let names: [ModuleRole: String]
    /// The router's parameter that takes part in the choice of experts only, not in their weights.
    let selectionBias: String?
    /// Modules that engines load as one matrix.
    let fused: [FusedModules]
    /// Where the scales of inputs are undone exactly (AWQ).
    let folds: [Fold]
    /// What compressed-tensors' `ignore` says of the modules that stay unquantized.
    public let ignorePatterns: [String]
    /// Reads `config.json`, and refuses what this family does not have.
    let configuration: @Sendable (ConfigurationReader, Architecture) throws -> ModelConfiguration

    private let roles: [String: ModuleRole]

    init(
        name: String, modelTypes: Set<String>, names: [ModuleRole: String], selectionBias: String? = nil, fused: [FusedModules], folds: [Fold],
        ignorePatterns: [String], configuration: @escaping @Sendable (ConfigurationReader, Architecture) throws -> ModelConfiguration
    ) {
        self.name = name
        self.modelTypes = modelTypes
        self.names = names
        self.selectionBias = selectionBias
        self.fused = fused
        self.folds = folds
        self.ignorePatterns = ignorePatterns
        self.configuration = configuration
        roles = Dictionary(names.map { ($0.value, $0.key) }) { first, _ in first }
    }

    public var description: String { name }

    public static func == (a: Architecture, b: Architecture) -> Bool { a.name == b.name }

    /// The registry: a line a family.
    public static let known: [Architecture] = [.deepSeek, .qwen3MoE]

    /// The family of a `model_type`.
    public static func named(_ modelType: String?) -> Architecture? { modelType.flatMap { type in known.first { $0.modelTypes.contains(type) } } }

    // MARK: Names

    /// The canonical name of a module; nil if the family has none of this role.
    public func module(_ role: ModuleRole, layer: Int? = nil, expert: Int? = nil) -> String? {
        guard let template = names[role] else { return nil }
        var numbers = [layer, expert].compactMap { $0 }[...]
        return template.split(separator: ".", omittingEmptySubsequences: false)
            .map { $0 == "#" ? numbers.popFirst().map(String.init) ?? "#" : String($0) }.joined(separator: ".")
    }

    /// The place of a module by its canonical name; nil if the family knows none of this name.
    public func place(of module: some StringProtocol) -> ModulePlace? {
        var numbers: [Int] = []
        let kind = module.split(separator: ".", omittingEmptySubsequences: false).map { word -> String in
            guard let number = Self.number(word) else { return String(word) }
            numbers.append(number)
            return "#"
        }.joined(separator: ".")
        guard let role = roles[kind] else { return nil }
        return ModulePlace(role, layer: numbers.first, expert: numbers.count > 1 ? numbers[1] : nil)
    }

    /// A whole number as module names spell it: no sign, no leading zero.
    private static func number(_ word: some StringProtocol) -> Int? {
        guard let first = word.utf8.first, (0x30...0x39).contains(first), word.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            first != 0x30 || word.utf8.count == 1
        else { return nil }
        return Int(word)
    }
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
