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
        var kind: [UInt8] = []
        kind.reserveCapacity(name.utf8.count)
        var word = 0
        func endWord() {
            guard kind.count > word, kind[word...].allSatisfy({ (0x30...0x39).contains($0) }) else { return }
            kind.replaceSubrange(word..., with: CollectionOfOne(UInt8(ascii: "*")))
        }
        for byte in name.utf8 {
            if byte == UInt8(ascii: ".") { endWord() }
            kind.append(byte)
            if byte == UInt8(ascii: ".") { word = kind.count }
        }
        endWord()
        return String(decoding: kind, as: UTF8.self)
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
