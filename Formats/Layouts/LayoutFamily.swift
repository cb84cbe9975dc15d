import StrictJSON
import Tensors

/// The tensors of one module, `X.weight`, `X.weight_scale`, ..., by the last component of their names.
package struct ModuleTensors {
    package var module: String
    package var tensors: [(leaf: String, tensor: StoredTensor)]
    /// Reads the bytes of a small tensor (`weight_shape`).
    package var read: (StoredTensor) throws -> [UInt8]

    package init(module: String, tensors: [(leaf: String, tensor: StoredTensor)], read: @escaping (StoredTensor) throws -> [UInt8]) {
        self.module = module
        self.tensors = tensors
        self.read = read
    }

    package subscript(leaf: String) -> StoredTensor? { tensors.first { $0.leaf == leaf }?.tensor }
}

/// Stored tensors that look like a layout but contradict themselves or the configuration.
package struct LayoutFault: Error, Equatable {
    package var tensor: String
    package var reason: String

    package init(_ tensor: String, _ reason: String) {
        self.tensor = tensor
        self.reason = reason
    }
}

/// A weight that a family found among a module's tensors.
package struct RecognisedWeight {
    package var layout: any WeightLayout
    /// `[rows, columns]`, or with leading dimensions where weights are stacked.
    package var dimensions: [Int]
    /// The weight's own name inside the module; "weight" for nearly all.
    package var leaf: String

    package init(_ layout: any WeightLayout, _ shape: MatrixShape, dimensions: [Int]? = nil, leaf: String = "weight") {
        self.layout = layout
        self.dimensions = dimensions ?? [shape.rows, shape.columns]
        self.leaf = leaf
    }
}

/// A layout that can be asked for by name.
package struct LayoutTarget: Sendable {
    /// The name on the command line.
    package var name: String
    package var layout: any WeightLayout
    package var dialect: any Dialect
    /// Where the layout is for routed experts only: the name of the layout that the other linear weights take.
    package var besideExperts: String?
    /// Whether help and lists name it; variants of a listed one are understood without being listed.
    package var isListed: Bool
    /// Whose bytes its encoder gives, and which programs read the result in the interop checks.
    package var peers: Peers

    package struct Peers: Sendable, Equatable {
        package var encoder: String
        package var readers: String

        package init(encoder: String = "", readers: String = "") {
            self.encoder = encoder
            self.readers = readers
        }
    }

    package init(
        _ name: String, _ layout: any WeightLayout, dialect: any Dialect = HuggingFace(), besideExperts: String? = nil, isListed: Bool = true,
        peers: Peers = Peers()
    ) {
        self.peers = peers
        self.name = name
        self.layout = layout
        self.dialect = dialect
        self.besideExperts = besideExperts
        self.isListed = isListed
    }
}

/// One folder under `Formats/Layouts`: what it recognises, what it offers, and how `config.json` speaks of it.
package protocol LayoutFamily: Sendable {
    /// What `--to` and recipes can name.
    static var targets: [LayoutTarget] { get }

    /// Leaf names of its tensors that only make sense together; left alone they are orphans. Names that dense weights have, too, are not among them.
    static var companionLeaves: Set<String> { get }

    /// Those of ``companionLeaves`` that hold codes, not what decodes them.
    static var codeLeaves: Set<String> { get }

    /// The weight that these tensors make, if they are of this family. The caller checks types and shapes against
    /// ``WeightLayout/parts(of:)``; a family only throws where the shape itself cannot be worked out.
    static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight?

    /// The exact ways between two layouts that this folder knows.
    static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer

    /// Which consumer configuration describes `layout`; nil if the layout is not of this family or needs none.
    static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration?
}

extension LayoutFamily {
    package static var companionLeaves: Set<String> { [] }
    package static var codeLeaves: Set<String> { [] }
    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer { .unrelated }
}

/// The part of `quantization_config` that one layout contributes.
package enum ConsumerConfiguration: Sendable, Equatable {
    /// `quant_method: fp8` with `weight_block_size`, as DeepSeek publishes it.
    case fp8(block: [Int], powerOfTwoScales: Bool)
    /// One group of `quant_method: compressed-tensors`.
    case compressedTensors(format: String, weights: JSONObject, activations: JSONObject?)
    /// A method that has one layout for all weights.
    case uniform(UniformMethod)
    /// Experts of `quant_method: w4afp8`, beside FP8 blocks.
    case w4afp8
    /// MLX's `quantization`: the default, and per-module exceptions of the same form.
    case mlx(JSONObject)
}

/// `quantization_config` of a method that has one layout for all weights, apart from modules that it leaves alone.
package struct UniformMethod: Sendable, Equatable {
    package var json: JSONObject
    /// How modules that stay unquantized are named: a list under this key, ...
    package var exemptions: String?
    /// ... or negative patterns in GPTQModel's `dynamic`.
    package var hasDynamicExemptions: Bool
    /// Another file that must say the same (`hf_quant_config.json`), made from the exempt modules.
    package var sideFile: String?
    /// Whether layers that predict further tokens stay unquantized: a pattern each.
    package var leavesPrediction: Bool

    package init(
        _ json: JSONObject, exemptions: String? = nil, hasDynamicExemptions: Bool = false, sideFile: String? = nil, leavesPrediction: Bool = false
    ) {
        self.leavesPrediction = leavesPrediction
        self.json = json
        self.exemptions = exemptions
        self.hasDynamicExemptions = hasDynamicExemptions
        self.sideFile = sideFile
    }
}

/// Every layout family. Adding a format adds one line here.
package enum LayoutRegistry {
    package static let families: [any LayoutFamily.Type] = [
        DenseFamily.self,
        PackedIntegerFamily.self,
        IntegerQuantizedFamily.self,
        FloatQuantizedFamily.self,
        BlockScaledFP8Family.self,
        W4AFP8Family.self,
        AWQFamily.self,
        GPTQFamily.self,
        MXFP8Family.self,
        MXFP4Family.self,
        NVFP4Family.self,
        MLXFamily.self,
        GGMLBlockFamily.self,
    ]

    package static let targets: [LayoutTarget] = families.flatMap { $0.targets }

    /// The target of a name; written in other cases (`q4_k_m`) if only one is meant then.
    package static func target(named name: String) -> LayoutTarget? {
        if let exact = targets.first(where: { $0.name == name }) { return exact }
        let meant = targets.filter { $0.name.lowercased() == name.lowercased() }
        return meant.count == 1 ? meant[0] : nil
    }

    /// Leaf names that only make sense beside a quantized weight; left alone they are orphans.
    package static let companionLeaves = families.reduce(into: Set<String>()) { $0.formUnion($1.companionLeaves) }

    /// Those of them that hold codes.
    package static let codeLeaves = families.reduce(into: Set<String>()) { $0.formUnion($1.codeLeaves) }

    /// Leaf names of what lies beside a weight without being part of its values: scales of activations, of the cache of keys and values and of
    /// outputs, and orders of columns. They belong to the layout of the weight beside them and lose their meaning with it.
    package static let activationLeaves: Set<String> = [
        "input_scale", "input_scale_inv", "input_global_scale", "input_zero_point", "activation_scale", "act_scale", "qscale_act", "k_scale",
        "v_scale", "kv_scale", "k_zero_point", "v_zero_point", "prob_scale", "output_scale", "output_global_scale", "weight_g_idx", "q_scale",
        "input_offset", "output_zero_point", "k_cache_scale", "v_cache_scale", "kv_cache_scaling_factor", "input_scale_ub", "deq_scale",
        "input_amax", "output_amax", "_amax",
    ]
}
