/// A JSON document in memory. Objects keep the order of their keys and numbers their text, so that a document that is read,
/// changed in one place and written again differs in that place only.
package enum JSONValue: Sendable, Equatable {
    case object(JSONObject)
    case array([JSONValue])
    case string(String)
    case number(String)
    case bool(Bool)
    case null

    package init(parsing bytes: [UInt8]) throws(JSONError) {
        var scanner = JSONScanner(bytes)
        self = try JSONValue(scanning: &scanner)
        try scanner.finish()
    }

    /// Reads the next value of `scanner`. A key that occurs twice in an object is an error.
    package init(scanning scanner: inout JSONScanner) throws(JSONError) {
        switch scanner.peek() {
        case UInt8(ascii: "{"):
            try scanner.beginObject()
            var object = JSONObject()
            while let key = try scanner.nextKey() {
                guard object[key] == nil else { throw scanner.error("key \"\(key)\" occurs twice") }
                object.append(key, try JSONValue(scanning: &scanner))
            }
            self = .object(object)
        case UInt8(ascii: "["):
            try scanner.beginArray()
            var elements: [JSONValue] = []
            while try scanner.nextElement() { elements.append(try JSONValue(scanning: &scanner)) }
            self = .array(elements)
        case UInt8(ascii: "\""): self = .string(try scanner.string())
        case UInt8(ascii: "t"), UInt8(ascii: "f"), UInt8(ascii: "n"):
            switch try scanner.word() {
            case "true": self = .bool(true)
            case "false": self = .bool(false)
            default: self = .null
            }
        case .some: self = .number(try scanner.number())
        case .none: throw scanner.error("expected a value")
        }
    }

    package var object: JSONObject? { if case .object(let object) = self { object } else { nil } }
    package var array: [JSONValue]? { if case .array(let array) = self { array } else { nil } }
    package var string: String? { if case .string(let string) = self { string } else { nil } }
    package var bool: Bool? { if case .bool(let bool) = self { bool } else { nil } }
    package var int: Int? { if case .number(let text) = self { Int(text) } else { nil } }
    package var double: Double? { if case .number(let text) = self { Double(text) } else { nil } }

    package subscript(key: String) -> JSONValue? { object?[key] }

    package static func int(_ value: Int) -> JSONValue { .number(String(value)) }

    /// A finite number by its shortest text; infinities and NaN, which JSON lacks, become null.
    package static func double(_ value: Double) -> JSONValue { value.isFinite ? .number("\(value)") : .null }
}

/// Keys and values in order. Lookup is linear up to a few keys and hashed beyond, so hostile objects stay cheap.
package struct JSONObject: Sendable, Equatable, ExpressibleByDictionaryLiteral {
    package private(set) var members: [(key: String, value: JSONValue)] = []
    private var places: [String: Int] = [:]

    package init() {}

    package init(dictionaryLiteral elements: (String, JSONValue)...) {
        for (key, value) in elements { self[key] = value }
    }

    fileprivate mutating func append(_ key: String, _ value: JSONValue) {
        places[key] = members.count
        members.append((key, value))
    }

    /// Setting nil removes the key; a new key goes to the end.
    package subscript(key: String) -> JSONValue? {
        get { places[key].map { members[$0].value } }
        set {
            if let place = places[key] {
                if let newValue {
                    members[place].value = newValue
                } else {
                    members.remove(at: place)
                    places.removeValue(forKey: key)
                    for (other, index) in places where index > place { places[other] = index - 1 }
                }
            } else if let newValue {
                append(key, newValue)
            }
        }
    }

    package static func == (a: JSONObject, b: JSONObject) -> Bool {
        a.members.elementsEqual(b.members) { $0.key == $1.key && $0.value == $1.value }
    }
}
