/// Module names by role, both ways. `#` stands for the layer, a second one for the expert.
package struct NameTable: Sendable {
    private let names: [ModuleRole: String]
    private let roles: [String: ModuleRole]

    package init(_ names: [ModuleRole: String]) {
        self.names = names
        roles = Dictionary(names.map { ($0.value, $0.key) }) { first, _ in first }
    }

    /// The name of a module; nil if there is none of its role.
    package func module(_ place: ModulePlace) -> String? {
        guard let template = names[place.role] else { return nil }
        var numbers = [place.layer, place.expert].compactMap { $0 }[...]
        return template.split(separator: ".", omittingEmptySubsequences: false)
            .map { $0 == "#" ? numbers.popFirst().map(String.init) ?? "#" : String($0) }.joined(separator: ".")
    }

    /// The place of a module by its name; nil for a name of none.
    package func place(of module: some StringProtocol) -> ModulePlace? {
        var numbers: [Int] = []
        let kind = module.split(separator: ".", omittingEmptySubsequences: false).map { word -> String in
            guard let number = Self.number(word) else { return String(word) }
            numbers.append(number)
            return "#"
        }.joined(separator: ".")
        guard let role = roles[kind] else { return nil }
        return ModulePlace(role, layer: numbers.first, expert: numbers.count > 1 ? numbers[1] : nil)
    }

    /// A whole number as module names spell it: no sign, no leading zero.
    private static func number(_ word: some StringProtocol) -> Int? {
        guard let first = word.utf8.first, (0x30...0x39).contains(first), word.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            first != 0x30 || word.utf8.count == 1
        else { return nil }
        return Int(word)
    }
}
