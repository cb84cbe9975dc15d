/// The grammar of tensor names: modules joined by dots, the tensor's own name last.
package enum WeightName {
    /// `model.layers.0.mlp.down_proj` of `model.layers.0.mlp.down_proj.weight`; empty without a dot.
    package static func module(_ name: String) -> Substring {
        name.utf8.lastIndex(of: UInt8(ascii: ".")).map { name[..<$0] } ?? ""
    }

    /// `weight` of `model.layers.0.mlp.down_proj.weight`.
    package static func leaf(_ name: String) -> Substring {
        name.utf8.lastIndex(of: UInt8(ascii: ".")).map { name[name.utf8.index(after: $0)...] } ?? name[...]
    }

    /// The name with every number replaced by `*`: siblings in other layers and experts share it.
    package static func kind(_ name: String) -> String {
        name.split(separator: ".", omittingEmptySubsequences: false)
            .map { $0.utf8.allSatisfy { (0x30...0x39).contains($0) } && !$0.isEmpty ? "*" : $0 }
            .joined(separator: ".")
    }

    /// The number after `layers.`, if the name has one.
    package static func layer(_ name: String) -> Int? {
        guard let range = name.range(of: "layers.") else { return nil }
        return Int(name[range.upperBound...].prefix { $0.isNumber })
    }

    /// Whether the weight belongs to a routed expert, which only some tokens use.
    package static func isRoutedExpert(_ name: String) -> Bool { name.contains(".experts.") }
}

extension String {
    /// The first place where `text` occurs.
    package func range(of text: String) -> Range<String.Index>? {
        let bytes = Array(text.utf8)
        var start = utf8.startIndex
        while let first = utf8[start...].firstIndex(of: bytes[0]) {
            if utf8[first...].starts(with: bytes) { return first..<utf8.index(first, offsetBy: bytes.count) }
            start = utf8.index(after: first)
        }
        return nil
    }
}
