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

/// The grammar of tensor names: modules joined by dots, the tensor's own name last.
public enum WeightName {
    /// `model.layers.0.mlp.down_proj` of `model.layers.0.mlp.down_proj.weight`; empty without a dot.
    public static func module(_ name: String) -> Substring {
        name.utf8.lastIndex(of: UInt8(ascii: ".")).map { name[..<$0] } ?? ""
    }

    /// `weight` of `model.layers.0.mlp.down_proj.weight`.
    public static func leaf(_ name: String) -> Substring {
        name.utf8.lastIndex(of: UInt8(ascii: ".")).map { name[name.utf8.index(after: $0)...] } ?? name[...]
    }

    /// The name with every number replaced by `*`: siblings in other layers and experts share it.
    public static func kind(_ name: String) -> String {
        name.split(separator: ".", omittingEmptySubsequences: false)
            .map { $0.utf8.allSatisfy { (0x30...0x39).contains($0) } && !$0.isEmpty ? "*" : $0 }
            .joined(separator: ".")
    }

    /// The number after `layers.`, if the name has one.
    public static func layer(_ name: String) -> Int? {
        guard let range = name.range(of: "layers.") else { return nil }
        return Int(name[range.upperBound...].prefix { $0.isNumber })
    }

    /// Whether this is no weight but what lies beside one: scales of activations, of the cache, of outputs.
    public static func isCompanion(_ name: String) -> Bool { LayoutRegistry.activationLeaves.contains(String(leaf(name))) }

    /// Whether the weight belongs to a routed expert, which only some tokens use.
    public static func isRoutedExpert(_ name: String) -> Bool { name.contains(".experts.") }
}

extension String {
    /// The first place where `text` occurs.
    func range(of text: String) -> Range<String.Index>? {
        let bytes = Array(text.utf8)
        var start = utf8.startIndex
        while let first = utf8[start...].firstIndex(of: bytes[0]) {
            if utf8[first...].starts(with: bytes) { return first..<utf8.index(first, offsetBy: bytes.count) }
            start = utf8.index(after: first)
        }
        return nil
    }
}
