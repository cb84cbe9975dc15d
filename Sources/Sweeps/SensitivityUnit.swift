import Architectures
import Checkpoints
import Conversion
import Formats
import Tensors

/// Weights that take one layout together: those of one kind in one layer. Projections that engines join into one (gate and up, the
/// two that lead into the latents) are one unit, as are all experts of a layer.
package struct SensitivityUnit: Sendable, Equatable {
    package var layer: Int
    /// The multi-token-prediction layer that shares the unit's layout, at the last layer: no divergence tells anything about it.
    package var companion: Int?
    /// The module inside its layer, numbers as `*` and modules that are fused joined by `|`: `mlp.experts.*.gate_proj|up_proj`.
    package var kind: String

    /// Nil for weights outside the layers.
    package init?(_ name: String, layers: Int, roles: ModelRoles) {
        guard let layer = WeightName.layer(name) else { return nil }
        self.layer = min(layer, layers - 1)
        companion = layer >= layers ? layer : nil
        let parts = WeightName.kind(String(WeightName.module(name))).split(separator: ".").map(String.init)
        // model.layers.*.
        var inner = Array(parts.drop { $0 != "layers" }.dropFirst(2))
        if let fusion = roles.fusion(of: String(WeightName.module(name))), !inner.isEmpty {
            inner[inner.count - 1] = fusion.modules.map { String(WeightName.leaf($0)) }.joined(separator: "|")
        }
        kind = inner.joined(separator: ".")
    }

    /// A pattern over weight names that matches the unit's and no others.
    package var pattern: String {
        let inner = kind.split(separator: ".", omittingEmptySubsequences: false).map { part in
            part == "*" ? "[0-9]+" : part.contains("|") ? "(\(part))" : String(part)
        }.joined(separator: "\\.")
        let place = companion.map { "(\(layer)|\($0))" } ?? "\(layer)"
        return "re:model\\.layers\\.\(place)\\.\(inner)\\.weight"
    }

    package var name: String { "layer \(layer) \(kind)" }
}

/// What a layout costs and spoils in one unit, everything else being the original.
package struct UnitCost: Sendable, Equatable {
    package var layout: String
    /// Stored bytes.
    package var bytes: Int
    /// Mean KL divergence in nats.
    package var kld: Double

    package init(layout: String, bytes: Int, kld: Double) {
        self.layout = layout
        self.bytes = bytes
        self.kld = kld
    }
}
