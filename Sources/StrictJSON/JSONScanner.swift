/// What is wrong with a JSON text, and at which byte.
package struct JSONError: Error, Equatable, CustomStringConvertible {
    package let reason: String
    package let offset: Int

    package var description: String { "\(reason) at byte \(offset)" }
}

/// Reads JSON (RFC 8259) from bytes in one pass, strictly: UTF-8 only, no trailing commas, no bare words, numbers by the
/// grammar, nesting of at most ``maximumDepth``. Memory is what the caller keeps: nothing is built behind its back.
///
/// ```swift
/// var scanner = JSONScanner(bytes)
/// try scanner.beginObject()
/// while let key = try scanner.nextKey() { ... }
/// try scanner.finish()
/// ```
package struct JSONScanner {
    package static let maximumDepth = 64

    private let bytes: [UInt8]
    package private(set) var offset = 0
    /// For each open object or array: whether its first member has been read.
    private var open: [Bool] = []

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package func error(_ reason: String) -> JSONError { JSONError(reason: reason, offset: offset) }

    /// The next byte that is not white space, or nil at the end.
    package mutating func peek() -> UInt8? {
        while offset < bytes.count {
            switch bytes[offset] {
            case 0x20, 0x09, 0x0A, 0x0D: offset += 1
            default: return bytes[offset]
            }
        }
        return nil
    }

    private mutating func expect(_ byte: UInt8) throws(JSONError) {
        guard peek() == byte else { throw error("expected '\(Character(UnicodeScalar(byte)))'") }
        offset += 1
    }

    private mutating func enter(_ byte: UInt8) throws(JSONError) {
        try expect(byte)
        guard open.count < Self.maximumDepth else { throw error("nested deeper than \(Self.maximumDepth) levels") }
        open.append(false)
    }

    package mutating func beginObject() throws(JSONError) { try enter(UInt8(ascii: "{")) }

    package mutating func beginArray() throws(JSONError) { try enter(UInt8(ascii: "[")) }

    /// Steps to the next member; false (and the container is closed) if there is none.
    private mutating func advance(closing: UInt8) throws(JSONError) -> Bool {
        guard let first = open.last else { throw error("no open container") }
        if peek() == closing {
            offset += 1
            open.removeLast()
            return false
        }
        if first {
            try expect(UInt8(ascii: ","))
        } else {
            open[open.count - 1] = true
        }
        return true
    }

    /// The next key of the open object, or nil when the object ends.
    package mutating func nextKey() throws(JSONError) -> String? {
        guard try advance(closing: UInt8(ascii: "}")) else { return nil }
        let key = try string()
        try expect(UInt8(ascii: ":"))
        return key
    }

    /// Whether the open array has another element; closes the array when not.
    package mutating func nextElement() throws(JSONError) -> Bool { try advance(closing: UInt8(ascii: "]")) }

    package mutating func string() throws(JSONError) -> String {
        try expect(UInt8(ascii: "\""))
        let start = offset
        while offset < bytes.count {
            switch bytes[offset] {
            case UInt8(ascii: "\""):
                defer { offset += 1 }
                return try utf8(bytes[start..<offset])
            case UInt8(ascii: "\\"):
                return try escapedString(prefix: bytes[start..<offset])
            case 0..<0x20:
                throw error("control character in a string")
            default:
                offset += 1
            }
        }
        throw error("string without an end")
    }

    private func utf8(_ slice: some Collection<UInt8>) throws(JSONError) -> String {
        guard let text = String(validating: slice, as: UTF8.self) else { throw error("string is not UTF-8") }
        return text
    }

    private mutating func escapedString(prefix: ArraySlice<UInt8>) throws(JSONError) -> String {
        var text = Array(prefix)
        while offset < bytes.count {
            let byte = bytes[offset]
            offset += 1
            switch byte {
            case UInt8(ascii: "\""): return try utf8(text)
            case 0..<0x20: throw error("control character in a string")
            case UInt8(ascii: "\\"): try escape(into: &text)
            default: text.append(byte)
            }
        }
        throw error("string without an end")
    }

    private mutating func escape(into text: inout [UInt8]) throws(JSONError) {
        guard offset < bytes.count else { throw error("string without an end") }
        let byte = bytes[offset]
        offset += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "f"): text.append(0x0C)
        case UInt8(ascii: "n"): text.append(0x0A)
        case UInt8(ascii: "r"): text.append(0x0D)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "u"):
            var code = try hexadecimal4()
            if (0xD800..<0xDC00).contains(code), offset + 1 < bytes.count, bytes[offset] == UInt8(ascii: "\\"),
                bytes[offset + 1] == UInt8(ascii: "u")
            {
                offset += 2
                let low = try hexadecimal4()
                guard (0xDC00..<0xE000).contains(low) else { throw error("unpaired surrogate in a string") }
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            }
            guard let scalar = UnicodeScalar(code) else { throw error("unpaired surrogate in a string") }
            text.append(contentsOf: String(Character(scalar)).utf8)
        default: throw error("unknown escape in a string")
        }
    }

    private mutating func hexadecimal4() throws(JSONError) -> UInt32 {
        guard offset + 4 <= bytes.count else { throw error("short \\u escape") }
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Character(UnicodeScalar(bytes[offset])).hexDigitValue, bytes[offset] < 0x80 else {
                throw error("bad \\u escape")
            }
            code = code << 4 | UInt32(digit)
            offset += 1
        }
        return code
    }

    /// A number's text, checked against the grammar.
    package mutating func number() throws(JSONError) -> String {
        _ = peek()
        let start = offset
        if byte == UInt8(ascii: "-") { offset += 1 }
        if byte == UInt8(ascii: "0") { offset += 1 } else { try digits() }
        if byte == UInt8(ascii: ".") {
            offset += 1
            try digits()
        }
        if byte == UInt8(ascii: "e") || byte == UInt8(ascii: "E") {
            offset += 1
            if byte == UInt8(ascii: "+") || byte == UInt8(ascii: "-") { offset += 1 }
            try digits()
        }
        return String(decoding: bytes[start..<offset], as: UTF8.self)
    }

    private var byte: UInt8? { offset < bytes.count ? bytes[offset] : nil }

    private mutating func digits() throws(JSONError) {
        let start = offset
        while let byte, (0x30...0x39).contains(byte) { offset += 1 }
        guard offset > start else { throw error("expected a digit") }
    }

    /// A whole number that fits Int, without sign, fraction or exponent.
    package mutating func count() throws(JSONError) -> Int {
        _ = peek()
        let start = offset
        var value = 0
        while let byte, (0x30...0x39).contains(byte) {
            let (product, over) = value.multipliedReportingOverflow(by: 10)
            let (sum, tooLarge) = product.addingReportingOverflow(Int(byte - 0x30))
            guard !over, !tooLarge else { throw error("number too large") }
            value = sum
            offset += 1
        }
        guard offset > start, !(offset - start > 1 && bytes[start] == 0x30) else { throw error("expected a whole number") }
        if let byte, byte == UInt8(ascii: ".") || byte | 0x20 == UInt8(ascii: "e") { throw error("expected a whole number") }
        return value
    }

    /// Reads one of the bare words true, false, null; returns it.
    mutating func word() throws(JSONError) -> String {
        _ = peek()
        for word in ["true", "false", "null"] where bytes[offset...].starts(with: word.utf8) {
            offset += word.utf8.count
            return word
        }
        throw error("expected a value")
    }

    /// Nothing but white space may follow.
    package mutating func finish() throws(JSONError) {
        guard peek() == nil else { throw error("text after the end of the value") }
    }
}
