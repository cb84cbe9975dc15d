/// A pattern over names: a glob in which `*` stands for any characters, or a regular expression after `re:`.
/// Both must match the whole name, as compressed-tensors matches its targets.
package struct ModulePattern: Sendable, Equatable, CustomStringConvertible {
    package let description: String
    private enum Form: @unchecked Sendable {
        case glob([UInt8])
        /// A compiled regular expression is immutable; it only lacks the Sendable mark.
        case regex(Regex<AnyRegexOutput>)
    }
    private let form: Form

    package init(_ text: String) throws {
        description = text
        if text.hasPrefix("re:") {
            form = .regex(try Regex(String(text.dropFirst(3))))
        } else {
            form = .glob(Array(text.utf8))
        }
    }

    /// A glob whatever it begins with.
    package init(glob: String) {
        description = glob
        form = .glob(Array(glob.utf8))
    }

    package static func == (a: ModulePattern, b: ModulePattern) -> Bool { a.description == b.description }

    package func matches(_ name: String) -> Bool {
        switch form {
        case .glob(let pattern): Self.matches(pattern[...], Array(name.utf8)[...])
        case .regex(let regex): (try? regex.wholeMatch(in: name)) != nil
        }
    }

    /// Linear-time glob matching: on a mismatch, the last star takes one character more.
    private static func matches(_ pattern: ArraySlice<UInt8>, _ name: ArraySlice<UInt8>) -> Bool {
        var p = pattern.startIndex
        var n = name.startIndex
        var star: (pattern: Int, name: Int)?
        while n < name.endIndex {
            if p < pattern.endIndex, pattern[p] == UInt8(ascii: "*") {
                star = (p + 1, n)
                p += 1
            } else if p < pattern.endIndex, pattern[p] == name[n] {
                p += 1
                n += 1
            } else if let last = star {
                p = last.pattern
                n = last.name + 1
                star = (p, n)
            } else {
                return false
            }
        }
        return pattern[p...].allSatisfy { $0 == UInt8(ascii: "*") }
    }
}
