import StrictJSON
import Testing

@Suite struct JSONTests {
    func parse(_ text: String) throws -> JSONValue { try JSONValue(parsing: Array(text.utf8)) }

    @Test func readsEveryKindOfValue() throws {
        let value = try parse(#" {"a": [1, -2.5e+3, true, false, null], "b": {"c": "x\n\u00e9\ud83d\ude00\/"}} "#)
        #expect(value["a"]?.array == [.number("1"), .number("-2.5e+3"), .bool(true), .bool(false), .null])
        #expect(value["b"]?["c"]?.string == "x\n\u{e9}\u{1F600}/")
    }

    @Test func keepsOrderAndNumbersAsWritten() throws {
        let text = #"{"z":1.0,"a":1e-06,"m":[0.10]}"#
        #expect(try parse(text).text(pretty: false) == text)
    }

    @Test(arguments: [
        "", "{", "}", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "{a:1}", "[1 2]", "01", "1.", ".5", "+1", "1e", "tru", "nul", "\"a", "\"\u{1}\"", "\"\\x\"",
        "\"\\ud800\"", "\"\\udc00\\ud800\"", "[1]]", "NaN", "Infinity", "{\"a\":1,\"a\":2}", "\u{FEFF}{}", "'a'", "[1,,2]", "-",
    ])
    func refuses(_ text: String) { #expect(throws: JSONError.self) { try parse(text) } }

    @Test func refusesBytesThatAreNotUTF8() {
        #expect(throws: JSONError.self) { try JSONValue(parsing: [0x22, 0xFF, 0x22]) }
        #expect(throws: JSONError.self) { try JSONValue(parsing: [0x22, 0xC0, 0x80, 0x22]) }
    }

    @Test func refusesDeepNestingInsteadOfOverflowingTheStack() {
        #expect(throws: JSONError.self) { try JSONValue(parsing: [UInt8](repeating: UInt8(ascii: "["), count: 1_000_000)) }
    }

    @Test func countsAreWholeNumbersThatFit() throws {
        func count(_ text: String) throws -> Int {
            var scanner = JSONScanner(Array(text.utf8))
            return try scanner.count()
        }
        #expect(try count("9223372036854775807") == Int.max)
        for text in ["9223372036854775808", "-1", "1.5", "1e3", "007", "x", ""] { #expect(throws: JSONError.self) { try count(text) } }
    }

    @Test func removingAKeyKeepsTheOthersFindable() {
        var object: JSONObject = ["a": .int(1), "b": .int(2), "c": .int(3)]
        object["a"] = nil
        object["d"] = .int(4)
        #expect(object["b"]?.int == 2 && object["c"]?.int == 3 && object["d"]?.int == 4 && object["a"] == nil)
        #expect(object.members.map(\.key) == ["b", "c", "d"])
    }
}
