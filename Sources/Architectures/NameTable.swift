/// Module names by role, both ways. `#` stands for the layer, a second one for the expert.
package struct NameTable: Sendable {
    /// What stands before, between and behind the numbers of a name.
    private let names: [ModuleRole: [String]]
    private let roles: [String: ModuleRole]

    package init(_ names: [ModuleRole: String]) {
        self.names = names.mapValues { $0.split(separator: "#", omittingEmptySubsequences: false).map(String.init) }
        roles = Dictionary(names.map { ($0.value, $0.key) }) { first, _ in first }
    }

    /// The name of a module; nil if there is none of its role.
    package func module(_ place: ModulePlace) -> String? {
        guard let pieces = names[place.role] else { return nil }
        var name = pieces[0]
        for (number, piece) in zip([place.layer, place.expert, nil], pieces.dropFirst()) {
            if let number { name += String(number) } else { name += "#" }
            name += piece
        }
        return name
    }

    /// The place of a module by its name; nil for a name of none.
    package func place(of module: some StringProtocol) -> ModulePlace? {
        var numbers: [Int] = []
        // Asked for every weight several times: in one pass over the bytes.
        var kind: [UInt8] = []
        kind.reserveCapacity(module.utf8.count)
        var word = 0
        func endWord() {
            guard let number = Self.number(kind[word...]) else { return }
            numbers.append(number)
            kind.replaceSubrange(word..., with: CollectionOfOne(UInt8(ascii: "#")))
        }
        for byte in module.utf8 {
            if byte == UInt8(ascii: ".") { endWord() }
            kind.append(byte)
            if byte == UInt8(ascii: ".") { word = kind.count }
        }
        endWord()
        guard let role = roles[String(decoding: kind, as: UTF8.self)] else { return nil }
        return ModulePlace(role, layer: numbers.first, expert: numbers.count > 1 ? numbers[1] : nil)
    }

    /// A whole number as module names spell it: no sign, no leading zero.
    private static func number(_ word: ArraySlice<UInt8>) -> Int? {
        guard let first = word.first, word.count < 10, word.allSatisfy({ (0x30...0x39).contains($0) }), first != 0x30 || word.count == 1 else {
            return nil
        }
        return word.reduce(0) { $0 * 10 + Int($1 - 0x30) }
    }
}
