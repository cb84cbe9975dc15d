extension JSONValue {
    /// The document as text: two spaces of indentation a level if `pretty`, otherwise on one line without spaces.
    package func text(pretty: Bool = true) -> String {
        var text = ""
        write(to: &text, level: pretty ? 0 : nil)
        return text
    }

    private func write(to text: inout String, level: Int?) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .number(let number): text += number
        case .string(let string): JSONValue.quote(string, into: &text)
        case .array(let elements):
            Self.list(elements, "[", "]", to: &text, level: level) { element, text, level in element.write(to: &text, level: level) }
        case .object(let object):
            Self.list(object.members, "{", "}", to: &text, level: level) { member, text, level in
                JSONValue.quote(member.key, into: &text)
                text += level == nil ? ":" : ": "
                member.value.write(to: &text, level: level)
            }
        }
    }

    private static func list<Element>(
        _ elements: [Element], _ opening: String, _ closing: String, to text: inout String, level: Int?,
        element: (Element, inout String, Int?) -> Void
    ) {
        text += opening
        for (index, value) in elements.enumerated() {
            if index > 0 { text += "," }
            if let level { text += "\n" + String(repeating: "  ", count: level + 1) }
            element(value, &text, level.map { $0 + 1 })
        }
        if let level, !elements.isEmpty { text += "\n" + String(repeating: "  ", count: level) }
        text += closing
    }

    /// Appends `string` in quotes with the escapes that JSON requires.
    package static func quote(_ string: String, into text: inout String) {
        text += "\""
        defer { text += "\"" }
        // Nearly every text, names above all, has nothing to escape.
        guard string.utf8.contains(where: { $0 < 0x20 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\") }) else {
            text += string
            return
        }
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case let control where control.value < 0x20:
                let digits = String(control.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
    }
}
