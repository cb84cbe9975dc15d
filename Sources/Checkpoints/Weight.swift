import Architectures
import Formats
import Tensors

/// One logical tensor of a checkpoint: its name and shape, how it is encoded, and where its stored parts lie.
package struct Weight: Sendable {
    /// The canonical Hugging Face name, whatever the parts are called: `model.layers.0.mlp.down_proj.weight`.
    package var name: String
    package var dimensions: [Int]
    /// Nil for tensors that are carried as bytes (integers, booleans, buffers).
    package var layout: (any WeightLayout)?
    /// The stored tensors, in the order of the layout's parts.
    package var stored: [StoredTensor]

    package init(name: String, dimensions: [Int], layout: (any WeightLayout)?, stored: [StoredTensor]) {
        self.name = name
        self.dimensions = dimensions
        self.layout = layout
        self.stored = stored
    }

    package var shape: MatrixShape { MatrixShape(dimensions) }

    /// How many values the weight has.
    package var count: Int { Shape.count(dimensions) ?? 0 }

    package var storedBytes: Int { stored.reduce(0) { $0 + $1.byteCount } }

    /// "fp8-block", "bf16", "I64".
    package var layoutName: String { layout?.name ?? stored[0].type.rawValue }

    package var module: Substring { WeightName.module(name) }

    /// The stored parts as the layout describes them; none for opaque tensors.
    package var parts: [WeightPart] { layout?.parts(of: shape) ?? [] }
}
