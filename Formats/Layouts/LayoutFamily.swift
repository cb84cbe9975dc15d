import StrictJSON
import Tensors

/// The tensors of one module, `X.weight`, `X.weight_scale`, ..., by the last component of their names.
public struct ModuleTensors {
    public var module: String
    public var tensors: [(leaf: String, tensor: StoredTensor)]
    /// Reads the bytes of a small tensor (`weight_shape`).
    public var read: (StoredTensor) throws -> [UInt8]

    public init(module: String, tensors: [(leaf: String, tensor: StoredTensor)], read: @escaping (StoredTensor) throws -> [UInt8]) {
        self.module = module
        self.tensors = tensors
        self.read = read
    }

    public subscript(leaf: String) -> StoredTensor? { tensors.first { $0.leaf == leaf }?.tensor }
}

/// Stored tensors that look like a layout but contradict themselves or the configuration.
public struct LayoutFault: Error, Equatable {
    public var tensor: String
    public var reason: String

    public init(_ tensor: String, _ reason: String) {
        self.tensor = tensor
        self.reason = reason
    }
}

/// A weight that a family found among a module's tensors.
public struct RecognisedWeight {
    public var layout: any WeightLayout
    public var shape: MatrixShape

    public init(_ layout: any WeightLayout, _ shape: MatrixShape) {
        self.layout = layout
        self.shape = shape
    }
}

/// A layout that can be asked for by name.
public struct LayoutTarget: Sendable {
    /// The name on the command line.
    public var name: String
    public var layout: any WeightLayout

    public init(_ name: String, _ layout: any WeightLayout) {
        self.name = name
        self.layout = layout
    }
}

/// One folder under `Formats/Layouts`: what it recognises, what it offers, and how `config.json` speaks of it.
public protocol LayoutFamily: Sendable {
    /// What `--to` and recipes can name.
    static var targets: [LayoutTarget] { get }

    /// The weight that these tensors make, if they are of this family. The caller checks types and shapes against
    /// ``WeightLayout/parts(of:)``; a family only throws where the shape itself cannot be worked out.
    static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight?

    /// Which consumer configuration describes `layout`; nil if the layout is not of this family or needs none.
    static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration?
}

/// The part of `quantization_config` that one layout contributes.
public enum ConsumerConfiguration: Sendable, Equatable {
    /// `quant_method: fp8` with `weight_block_size`, as DeepSeek publishes it.
    case fp8(block: [Int], powerOfTwoScales: Bool)
    /// One group of `quant_method: compressed-tensors`.
    case compressedTensors(format: String, weights: JSONObject, activations: JSONObject?)
}

/// Every layout family. Adding a format adds one line here.
public enum LayoutRegistry {
    public static let families: [any LayoutFamily.Type] = [
        DenseFamily.self,
        PackedIntegerFamily.self,
        FloatQuantizedFamily.self,
        BlockScaledFP8Family.self,
    ]

    public static let targets: [LayoutTarget] = families.flatMap { $0.targets }

    public static func target(named name: String) -> LayoutTarget? { targets.first { $0.name == name } }

    /// Leaf names that only make sense beside a quantized weight; left alone they are orphans.
    public static let companionLeaves: Set<String> = [
        "weight_scale_inv", "weight_scale", "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale",
        "weight_scale_2",
    ]
}
