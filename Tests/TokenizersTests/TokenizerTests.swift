import Foundation
import Recast
import TestSupport
import Testing

/// Byte-level BPE against the `tokenizers` library (Tests/Scripts/golden_tokenizer.py).
@Suite struct TokenizerTests {
    static let path = Fixtures.path("tokenizer/tokenizer.json")

    func json(_ change: (inout JSONObject) -> Void) throws -> JSONValue {
        var object = try #require(try JSONValue(parsing: FileTree.read(Self.path, limit: 1 << 24)).object)
        change(&object)
        return .object(object)
    }

    @Test func aVariedTextHasTheTokensOfTheTokenizersLibrary() throws {
        let text = try #require(String(validating: Fixtures.bytes("tokenizer/corpus.txt"), as: UTF8.self))
        let golden = try #require(try JSONValue(parsing: Fixtures.bytes("tokenizer/golden.json"))["tokens"]?.array).compactMap(\.int)
        let tokens = try Tokenizer(reading: Self.path).encode(text)
        let first = zip(tokens, golden).enumerated().first { $0.element.0 != $0.element.1 }?.offset
        #expect(tokens.count == golden.count && first == nil, "the first difference is at token \(first ?? -1)")
    }

    @Test func theSmallModelsTokensAreBytes() throws {
        let tokenizer = try Tokenizer(reading: Fixtures.fp8Model + "/tokenizer.json")
        #expect(tokenizer.encode("Hi\u{00e9}\u{0}") == [72, 105, 0xC3, 0xA9, 0])
        #expect(tokenizer.encode("<|begin_of_text|>a<|end_of_text|>") == [256, 97, 257])
        #expect(tokenizer.encode("") == [])
    }

    @Test func longPiecesTakeNoLongerThanTheirLength() throws {
        // 300,000 letters in one piece: quadratic work would take minutes.
        let tokens = try Tokenizer(reading: Self.path).encode(String(repeating: "the", count: 100_000))
        #expect(!tokens.isEmpty && tokens.count < 200_000)
    }

    @Test(arguments: ["WordPiece", "normalizer", "Whitespace", "lstrip", "byte_fallback", "prefix"])
    func whatIsNotByteLevelBPEIsRefusedByName(_ change: String) throws {
        let changed = try json { object in
            var model = object["model"]?.object ?? [:]
            switch change {
            case "WordPiece": model["type"] = .string("WordPiece")
            case "byte_fallback": model["byte_fallback"] = .bool(true)
            case "normalizer": object["normalizer"] = .object(["type": .string("NFC")])
            case "Whitespace": object["pre_tokenizer"] = .object(["type": .string("Whitespace")])
            case "prefix": object["pre_tokenizer"] = .object(["type": .string("ByteLevel"), "add_prefix_space": .bool(true)])
            default: object["added_tokens"] = .array([.object(["content": .string("x"), "id": .int(3), "lstrip": .bool(true)])])
            }
            object["model"] = .object(model)
        }
        let failure = #expect(throws: TokenizerFailure.self) { try Tokenizer(changed, path: "t") }
        if case .unsupported = failure {} else { Issue.record("\(String(describing: failure))") }
    }

    @Test func damagedFilesAreRefused() throws {
        let changes: [(inout JSONObject) -> Void] = [
            { $0["model"] = nil },
            { object in
                var model = object["model"]?.object ?? [:]
                model["merges"] = .array([.string("a b c")])
                object["model"] = .object(model)
            },
            { object in
                var model = object["model"]?.object ?? [:]
                model["vocab"] = .object(["a": .string("x")])
                object["model"] = .object(model)
            },
            {
                $0["pre_tokenizer"] = .object([
                    "type": .string("Split"), "behavior": .string("Isolated"), "pattern": .object(["Regex": .string("(")]),
                ])
            },
            { $0["added_tokens"] = .array([.object(["content": .string("")])]) },
        ]
        for change in changes {
            let damaged = try json(change)
            #expect(throws: TokenizerFailure.self) { try Tokenizer(damaged, path: "t") }
        }
    }

    @Test func aTextIsCutIntoSequences() {
        let batch = TokenBatch(cutting: Array(1...7), length: 4, first: 0)
        #expect(batch.all == [0, 1, 2, 3, 0, 4, 5, 6, 0, 7] && batch.ranges == [0..<4, 4..<8, 8..<10])
        #expect(TokenBatch(cutting: Array(1...4), length: 2).ranges == [0..<2, 2..<4])
    }
}
