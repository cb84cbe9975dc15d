import Architectures
import Runtime
import StrictJSON
import Tensors

/// How tensors are named, stacked and split by those who read them: both directions, from canonical weights to stored tensors and back.
///
/// Canonical names are Hugging Face's, whatever a checkpoint calls its tensors. A dialect is a bijection: what it stores, it reads back as the same
/// weights under the same names. One folder a dialect, listed in ``DialectRegistry``.
package protocol Dialect: Sendable {
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

    /// The container that its readers take; nil for any.
    var container: String? { get }
    /// Whether its files say all of themselves: no index, no config.json and no tokenizer lie beside them.
    var isSelfDescribing: Bool { get }

    /// Tensors that its readers want and a model has not: they are made of its configuration, and their weights have these very names.
    func madeTensors(of config: JSONValue, roles: ModelRoles) throws -> [MadeTensor]

    /// What becomes of a weight; nothing if the dialect's readers have no use for it.
    /// - Throws: ``DialectFailure`` if they have no place for it.
    func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece]

    /// The stored name of a tensor of a piece, from its canonical one.
    /// - Parameter isStacked: whether the tensor holds a stack of pieces.
    func storedName(of tensor: String, isStacked: Bool) -> String

    /// Whether its files hold the experts of a model that has gate and up as one matrix in stacks of those, where weights of a layout are asked for.
    func stacksExperts(as layout: any WeightLayout) -> Bool

    /// The name of a file; nil where the container names it.
    func fileName(_ number: Int, of count: Int) -> String?

    /// The name of the list of several files; nil where the container names it.
    var indexName: String? { get }

    /// The file that its readers take the configuration from, and what it says.
    /// - Parameter config: as `config.json` has it.
    /// - Throws: ``DialectFailure`` if it has no words for the configuration.
    func configurationFile(_ config: JSONObject) throws -> (name: String, json: JSONObject)

    /// What to say where the experts of a model are written by themselves; nil where that is how its readers take them.
    func noteOnExpertsApart(_ roles: ModelRoles) -> String?

    /// Why its readers cannot take weights of a layout; nil if they can.
    func obstacle(to layout: any WeightLayout) -> String?

    /// The form in which its readers take a weight of a layout, where that hangs on the piece.
    /// - Throws: ``DialectFailure`` if they take it in none.
    func arranged(_ layout: any WeightLayout, of piece: StoredPiece, leaf: String, in model: DialectModel) throws(DialectFailure) -> any WeightLayout

    /// Why its readers leave a module unquantized where a layout is asked for; nil if they quantize it.
    /// - Parameter layout: nil to ask whether it is quantized in any.
    func exemption(of module: String, dimensions: [Int], roles: ModelRoles, from layout: (any WeightLayout)?) -> ModelRoles.Exemption?

    /// The layout that its readers' rules give a piece, and the rule in words; nil where the choice is free.
    /// - Parameter stored: how the source holds the weight.
    func layout(of piece: StoredPiece, leaf: String, as dimensions: [Int], from stored: (any WeightLayout)?, in model: DialectModel) -> (
        layout: any WeightLayout, reason: String
    )?

    /// What each file of an output says of itself beside its tensors.
    func descriptions(of model: DescribedModel, files: Int) throws -> [FileMetadata]

    /// The order in which a file's tensors are declared.
    func order(_ tensors: [TensorDeclaration]) -> [Int]
}

/// A model that a file is to describe.
package struct DescribedModel {
    /// Of the language model.
    package var config: JSONValue
    package var roles: ModelRoles
    /// The name of the directory that it came in.
    package var name: String
    /// All tensors of the output.
    package var tensors: [TensorDeclaration]
    /// The bytes of a small file beside the source; nil if there is none, an error if it cannot be read.
    package var sideFile: (String) throws -> [UInt8]?

    package init(
        config: JSONValue, roles: ModelRoles, name: String, tensors: [TensorDeclaration], sideFile: @escaping (String) throws -> [UInt8]?
    ) {
        self.config = config
        self.roles = roles
        self.name = name
        self.tensors = tensors
        self.sideFile = sideFile
    }
}

extension Dialect {
    package var format: String { "pt" }
    package var isCanonical: Bool { false }
    package var ranks: Int? { nil }
    package var container: String? { nil }
    package var isSelfDescribing: Bool { false }
    package func layout(of piece: StoredPiece, leaf: String, as dimensions: [Int], from stored: (any WeightLayout)?, in model: DialectModel) -> (
        layout: any WeightLayout, reason: String
    )? {
        nil
    }
    package func descriptions(of model: DescribedModel, files: Int) throws -> [FileMetadata] {
        [FileMetadata](repeating: FileMetadata(texts: [("format", format)]), count: files)
    }
    package func order(_ tensors: [TensorDeclaration]) -> [Int] { Array(tensors.indices) }
    package func storedName(of tensor: String, isStacked: Bool) -> String { tensor }
    package func madeTensors(of config: JSONValue, roles: ModelRoles) throws -> [MadeTensor] { [] }
    package func fileName(_ number: Int, of count: Int) -> String? { nil }
    package var indexName: String? { nil }
    package func configurationFile(_ config: JSONObject) throws -> (name: String, json: JSONObject) { ("config.json", config) }
    package func stacksExperts(as layout: any WeightLayout) -> Bool { false }
    package func noteOnExpertsApart(_ roles: ModelRoles) -> String? { nil }
    package func arranged(_ layout: any WeightLayout, of piece: StoredPiece, leaf: String, in model: DialectModel) throws(DialectFailure)
        -> any WeightLayout
    { layout }
    package func obstacle(to layout: any WeightLayout) -> String? { nil }

    /// As the field has it: what is exempt by its role, and what is no matrix in a layer.
    package func exemption(of module: String, dimensions: [Int], roles: ModelRoles, from layout: (any WeightLayout)?) -> ModelRoles.Exemption? {
        let known = roles.exemption(of: module, isNarrow: layout.map { !$0.holdsFP8 } ?? false, leavesPrediction: layout?.leavesPrediction ?? false)
        if let known { return known }
        if dimensions.count != 2 {
            return dimensions.count < 2
                ? .init(reason: "not a matrix", isImplied: true) : .init(reason: "stacked weights", isImplied: false)
        }
        return WeightName.layer(module + ".") == nil ? .init(reason: "outside the decoder layers", isImplied: false) : nil
    }
}

/// Every dialect that checkpoints are found in. Adding one adds a line here.
package enum DialectRegistry {
    /// What a user can ask for by name where a layout does not settle it.
    package static let namings: [(name: String, dialect: any Dialect)] = [("huggingface", HuggingFace()), ("mistral", Mistral())]

    /// In the order in which stacks are taken apart.
    static let readers: [any StackedDialect.Type] = [MLX.self, HuggingFace.self]

    /// Tensors that hold the matrices of several experts as the tensors of each: slices of the stored bytes.
    /// - Parameter note: is told what could not be taken apart, and why.
    package static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        readers.reduce(tensors) { $1.unstacked($0, config: config, note: note) }
    }
}

/// A dialect that stacks the matrices of experts.
protocol StackedDialect: Dialect {
    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor]
}

/// A vector that no file of the source holds.
package struct MadeTensor: Sendable {
    package var name: String
    package var values: [Float]
}

/// A weight as dialects see it.
package struct LogicalTensor: Sendable {
    /// Canonical.
    package var name: String
    package var dimensions: [Int]

    package init(name: String, dimensions: [Int]) {
        self.name = name
        self.dimensions = dimensions
    }

    var module: String { String(WeightName.module(name)) }
    var shape: MatrixShape { MatrixShape(dimensions) }
}

/// What a weight becomes in a dialect: itself, a part of it, or one matrix of a stack.
package struct StoredPiece: Sendable {
    /// The module's name in the output, canonical but for stacks and parts.
    package var module: String
    /// Nil for the whole weight.
    package var view: WeightView?
    /// Place in the stack, and how many matrices are stacked; nil for a matrix of its own.
    package var stack: (index: Int, count: Int)?
    /// Which equal part of the weight it is; nil for all of it.
    package var split: TensorSplit?
    /// Which file, where the dialect decides.
    package var rank: Int?

    package init(module: String, view: WeightView? = nil, stack: (index: Int, count: Int)? = nil, split: TensorSplit? = nil, rank: Int? = nil) {
        self.module = module
        self.view = view
        self.stack = stack
        self.split = split
        self.rank = rank
    }
}

/// What a dialect must know of the model, from `config.json`.
package struct DialectModel: Sendable {
    package var roles: ModelRoles
    package var layers: Int
    /// Modules behind the layers that predict further tokens.
    package var predictionLayers: Int
    package var experts: Int
    package var heads: Int
    package var nope: Int
    package var value: Int
    package var keyHeads: Int
    /// Query heads that share a key head.
    package var queryGroups: Int
    package var tiesHead: Bool
    /// How experts are written whose gate and up are one matrix; nil for a model that has none such.
    package var joinedExperts: JoinedExperts?

    package enum JoinedExperts: Sendable {
        /// As the source has them: nothing is converted.
        case asStored
        /// The matrices of all experts of a layer in one tensor.
        case stacked
        /// Each expert by itself, gate and up apart.
        case apart
    }

    /// - Parameter config: of the language model.
    package init(_ config: JSONValue, roles: ModelRoles) {
        func field(_ names: String...) -> Int {
            names.lazy.compactMap { config[$0]?.int }.first.flatMap { $0 > 0 && $0 < 1 << 24 ? $0 : nil } ?? 0
        }
        self.roles = roles
        joinedExperts = roles.joinsGateAndUp ? .asStored : nil
        // A number of layers that is none leaves no layer out.
        let count = field("num_hidden_layers")
        layers = count > 0 ? count : Int.max
        predictionLayers = field("num_nextn_predict_layers", "num_mtp_layers")
        experts = field("n_routed_experts", "num_experts", "num_local_experts")
        (heads, nope, value) = (field("num_attention_heads"), field("qk_nope_head_dim"), field("v_head_dim"))
        let keyHeads = field("num_key_value_heads")
        self.keyHeads = keyHeads > 0 ? keyHeads : heads
        queryGroups = heads / max(1, keyHeads)
        tiesHead = config["tie_word_embeddings"]?.bool ?? false
    }

    /// Whether a tensor lies behind the layers, or is a table that readers compute themselves: only canonical files have a place for it.
    /// - Parameter takesPrediction: whether readers have a place for the modules that predict further tokens.
    func isBeyondLayers(_ tensor: String, takesPrediction: Bool = false) -> Bool {
        if let layer = WeightName.layer(tensor), layer >= layers, !takesPrediction || layer - layers >= predictionLayers { return true }
        return tensor.hasSuffix("rotary_emb.inv_freq")
    }
}

/// A weight that a dialect has no place for.
package struct DialectFailure: Failure, Equatable {
    package var tensor: String
    package var reason: String

    package var kind: FailureKind { .usage }
    package var description: String { "\(tensor): \(reason)" }
}
