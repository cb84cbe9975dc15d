import Architectures
import Runtime
import StrictJSON
import Tensors

/// How tensors are named, stacked and split by those who read them: both directions, from canonical weights to stored tensors and back.
///
/// Canonical names are Hugging Face's, whatever a checkpoint calls its tensors. A dialect is a bijection: what it stores, it reads back as the same
/// weights under the same names. One folder a dialect, listed in ``DialectRegistry``.
public protocol Dialect: Sendable {
    /// "Hugging Face"
    var name: String { get }
    /// Who reads it, in a sentence: "mlx-lm".
    var readers: String { get }
    /// What its readers look for under `format` in a file's metadata.
    var format: String { get }
    /// Whether weights are stored under their canonical names, each by itself, so that the source's files can stay what they are.
    var isCanonical: Bool { get }
    /// For one file a rank: how many.
    var ranks: Int? { get }

    /// What becomes of a weight; nothing if the dialect's readers have no use for it.
    /// - Throws: ``DialectFailure`` if they have no place for it.
    func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece]

    /// The stored name of a tensor of a piece, from its canonical one.
    func storedName(of tensor: String) -> String

    /// The name of a file; nil where the container names it.
    func fileName(_ number: Int) -> String?

    /// Why its readers cannot take weights of a layout; nil if they can.
    func obstacle(to layout: any WeightLayout) -> String?

    /// Why its readers leave a module unquantized; nil if they quantize it.
    func exemption(of module: String, dimensions: [Int], roles: ModelRoles) -> ModelRoles.Exemption?
}

extension Dialect {
    public var format: String { "pt" }
    public var isCanonical: Bool { false }
    public var ranks: Int? { nil }
    public func storedName(of tensor: String) -> String { tensor }
    public func fileName(_ number: Int) -> String? { nil }
    public func obstacle(to layout: any WeightLayout) -> String? { nil }

    /// As the field has it: what is exempt by its role, and what is no matrix in a layer.
    public func exemption(of module: String, dimensions: [Int], roles: ModelRoles) -> ModelRoles.Exemption? {
        if let known = roles.exemption(of: module) { return known }
        if dimensions.count != 2 {
            return dimensions.count < 2
                ? .init(reason: "not a matrix", isImplied: true) : .init(reason: "stacked weights", isImplied: false)
        }
        return WeightName.layer(module + ".") == nil ? .init(reason: "outside the decoder layers", isImplied: false) : nil
    }
}

/// Every dialect that checkpoints are found in. Adding one adds a line here.
public enum DialectRegistry {
    /// In the order in which stacks are taken apart.
    static let readers: [any StackedDialect.Type] = [MLX.self, HuggingFace.self]

    /// Tensors that hold the matrices of several experts as the tensors of each: slices of the stored bytes.
    /// - Parameter note: is told what could not be taken apart, and why.
    public static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        readers.reduce(tensors) { $1.unstacked($0, config: config, note: note) }
    }
}

/// A dialect that stacks the matrices of experts.
protocol StackedDialect: Dialect {
    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor]
}

/// A weight as dialects see it.
public struct LogicalTensor: Sendable {
    /// Canonical.
    public var name: String
    public var dimensions: [Int]

    public init(name: String, dimensions: [Int]) {
        self.name = name
        self.dimensions = dimensions
    }

    var module: String { String(WeightName.module(name)) }
    var shape: MatrixShape { MatrixShape(dimensions) }
}

/// What a weight becomes in a dialect: itself, a part of it, or one matrix of a stack.
public struct StoredPiece: Sendable {
    /// The module's name in the output, canonical but for stacks and parts.
    public var module: String
    /// Nil for the whole weight.
    public var view: WeightView?
    /// Place in the stack, and how many matrices are stacked; nil for a matrix of its own.
    public var stack: (index: Int, count: Int)?
    /// Which equal part of the weight it is; nil for all of it.
    public var split: TensorSplit?
    /// Which file, where the dialect decides.
    public var rank: Int?

    public init(module: String, view: WeightView? = nil, stack: (index: Int, count: Int)? = nil, split: TensorSplit? = nil, rank: Int? = nil) {
        self.module = module
        self.view = view
        self.stack = stack
        self.split = split
        self.rank = rank
    }
}

/// What a dialect must know of the model, from `config.json`.
public struct DialectModel: Sendable {
    public var roles: ModelRoles
    public var layers: Int
    public var experts: Int
    public var heads: Int
    public var nope: Int
    public var value: Int

    /// - Parameter config: of the language model.
    public init(_ config: JSONValue, roles: ModelRoles) {
        func field(_ names: String...) -> Int {
            names.lazy.compactMap { config[$0]?.int }.first.flatMap { $0 > 0 && $0 < 1 << 24 ? $0 : nil } ?? 0
        }
        self.roles = roles
        // A number of layers that is none leaves no layer out.
        let count = field("num_hidden_layers")
        layers = count > 0 ? count : Int.max
        experts = field("n_routed_experts", "num_experts", "num_local_experts")
        (heads, nope, value) = (field("num_attention_heads"), field("qk_nope_head_dim"), field("v_head_dim"))
    }

    /// Whether a tensor lies behind the layers, or is a table that readers compute themselves: only canonical files have a place for it.
    func isBeyondLayers(_ tensor: String) -> Bool {
        if let layer = WeightName.layer(tensor), layer >= layers { return true }
        return tensor.hasSuffix("rotary_emb.inv_freq")
    }
}

/// A weight that a dialect has no place for.
public struct DialectFailure: Failure, Equatable {
    public var tensor: String
    public var reason: String

    public var kind: FailureKind { .usage }
    public var description: String { "\(tensor): \(reason)" }
}
