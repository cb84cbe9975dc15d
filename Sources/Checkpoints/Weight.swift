import Architectures
import Formats
import Tensors

/// One logical tensor of a checkpoint: its name and shape, how it is encoded, and where its stored parts lie.
public struct Weight: Sendable {
    /// The canonical Hugging Face name, whatever the parts are called: `model.layers.0.mlp.down_proj.weight`.
    public var name: String
    public var dimensions: [Int]
    /// Nil for tensors that are carried as bytes (integers, booleans, buffers).
    public var layout: (any WeightLayout)?
    /// The stored tensors, in the order of the layout's parts.
    public var stored: [StoredTensor]

    public init(name: String, dimensions: [Int], layout: (any WeightLayout)?, stored: [StoredTensor]) {
        self.name = name
        self.dimensions = dimensions
        self.layout = layout
        self.stored = stored
    }

    public var shape: MatrixShape { MatrixShape(dimensions) }

    /// How many values the weight has.
    public var count: Int { Shape.count(dimensions) ?? 0 }

    public var storedBytes: Int { stored.reduce(0) { $0 + $1.byteCount } }

    /// "fp8-block", "bf16", "I64".
    public var layoutName: String { layout?.name ?? stored[0].type.rawValue }

    public var module: Substring { WeightName.module(name) }

    /// The stored parts as the layout describes them; none for opaque tensors.
    public var parts: [WeightPart] { layout?.parts(of: shape) ?? [] }
}
