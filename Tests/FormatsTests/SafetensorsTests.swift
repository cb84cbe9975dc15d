import Foundation
import Recast
import TestSupport
import Testing

@Suite struct SafetensorsTests {
    func file(_ header: String, data: Int, length: UInt64? = nil) -> [UInt8] {
        CheckpointBuilder.bytes(length ?? UInt64(header.utf8.count)) + Array(header.utf8) + [UInt8](repeating: 0, count: data)
    }

    func read(_ bytes: [UInt8]) throws -> SafetensorsHeader {
        let folder = try TemporaryDirectory()
        try Data(bytes).write(to: URL(fileURLWithPath: folder.file("x.safetensors")))
        return try SafetensorsHeader(reading: PositionedFile.openForReading(folder.file("x.safetensors")))
    }

    @Test func readsWhatTheFormatAllows() throws {
        let header = try read(
            file(
                #"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]},"a":{"shape":[2,1],"dtype":"BF16","data_offsets":[0,4]},"e":{"dtype":"F64","shape":[0,3],"data_offsets":[8,8]}}   "#,
                data: 8))
        #expect(header.tensors.map(\.name) == ["a", "b", "e"])
        #expect(header.tensors[1].offset == header.dataOffset + 4)
        #expect(header.metadata.map(\.key) == ["format"])
        #expect(try read(file("{}", data: 0)).tensors.isEmpty)
    }

    static let one = #""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#

    @Test(arguments: [
        ("", 0, "too few bytes"), ("{\(one)}", 3, "truncated"), ("{\(one)}", 5, "extra data"), (" {\(one)}", 4, "must begin"),
        ("{\(one)},", 4, "after"),
        ("{\(one)}\n", 4, "after"), ("{\(one),\(one)}", 4, "twice"), (#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}"#, 5, "hole"),
        (#"{\#(one),"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#, 6, "overlaps"),
        (#"{\#(one),"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}}"#, 9, "hole"),
        (#"{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}"#, 4, "need 5"),
        (#"{"a":{"dtype":"Q9","shape":[4],"data_offsets":[0,4]}}"#, 4, "unknown dtype"),
        (#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#, 4, "first not above"), (#"{"a":{"dtype":"U8","shape":[4]}}"#, 4, "required"),
        (#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}"#, 4, "unexpected"),
        (#"{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}"#, 4, "whole number"),
        (#"{"a":{"dtype":"F64","shape":[9223372036854775807,2],"data_offsets":[0,4]}}"#, 4, "more elements"),
        (#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[9223372036854775807,9223372036854775807]}}"#, 4, "stored 0"),
        (#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]}}"#, 0, "too large"),
        (#"{"__metadata__":{"a":1}}"#, 0, "__metadata__"), (#"{"__metadata__":[]}"#, 0, "__metadata__"), ("[]", 0, "must begin"),
        (#"{"a":3}"#, 0, "expected '{'"),
        (#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, 1, "more elements"),
    ]) func refusesHeadersThatLie(_ header: String, _ data: Int, _ sentence: String) {
        let error = #expect(throws: SafetensorsFailure.self) { try read(file(header, data: data)) }
        let expected = sentence == "too few bytes" ? "malformed" : sentence == "stored 0" ? "occupies 0 bytes" : sentence
        #expect(error?.description.contains(header.isEmpty ? "must begin" : expected) == true, "\(error?.description ?? "")")
        #expect(error?.kind == .badData)
    }

    @Test func refusesFilesThatAreSomethingElse() throws {
        func fault(_ bytes: [UInt8]) -> SafetensorsFailure.Fault? { #expect(throws: SafetensorsFailure.self) { try read(bytes) }?.fault }
        #expect(fault(Array("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n".utf8)) == .gitLFSPointer)
        #expect(fault(Array("<!DOCTYPE html><html><body>Not found</body></html>".utf8)) == .webPage)
        #expect(fault([]) == .tooShort(size: 0))
        #expect(fault([1, 2, 3]) == .tooShort(size: 3))
        #expect(fault(file("{}", data: 0, length: 100_000_001)) == .headerTooLong(length: 100_000_001))
        #expect(fault(file("{}", data: 0, length: .max)) == .headerTooLong(length: .max))
        #expect(fault(file("{}", data: 0, length: 50)) == .headerBeyondEnd(length: 50, size: 10))
    }

    @Test func writtenHeadersAreAlignedSortedAndReadable() throws {
        let declarations = [
            TensorDeclaration(name: "odd", type: .u8, shape: [3]), .init(name: "wide", type: .i64, shape: [2]),
            .init(name: "b\"\\\u{1}é", type: .bf16, shape: [5]), .init(name: "a", type: .bf16, shape: [2, 2]),
            .init(name: "scalar", type: .f32, shape: []),
        ]
        let place = try #require(SafetensorsHeader.layout(declarations, metadata: [("format", "pt")]))
        #expect(place.header.count % 8 == 0)
        for (declaration, offset) in zip(declarations, place.offsets) { #expect(offset % max(1, declaration.type.bitWidth / 8) == 0) }
        let header = try read(place.header + [UInt8](repeating: 0, count: place.size - place.header.count))
        #expect(header.tensors.map(\.name) == ["wide", "scalar", "a", "b\"\\\u{1}é", "odd"])
        #expect(SafetensorsHeader.layout(declarations.shuffled(), metadata: [("format", "pt")])?.header == place.header)
    }

    @Test func indexesAreChecked() throws {
        func index(_ text: String) throws -> SafetensorsIndex {
            let folder = try TemporaryDirectory()
            try Data(text.utf8).write(to: URL(fileURLWithPath: folder.file("i.json")))
            return try SafetensorsIndex(reading: folder.file("i.json"))
        }
        #expect(
            try index(#"{"metadata":{},"weight_map":{"a":"x.safetensors","b":"y.safetensors","c":"x.safetensors"}}"#).files == [
                "x.safetensors", "y.safetensors",
            ])
        for bad in ["../x", "/etc/passwd", "a/b", "", "..", "a\\u0000b", "a\\\\b"] {
            #expect(throws: SafetensorsFailure.self, "\(bad)") { try index(#"{"weight_map":{"a":"\#(bad)"}}"#) }
        }
        for bad in ["{}", "[]", #"{"weight_map":[]}"#, #"{"weight_map":{"a":1}}"#, #"{"weight_map":{"a":"x","a":"y"}}"#, "{\"weight_map\":{}}x", ""] {
            #expect(throws: (any Error).self, "\(bad)") { try index(bad) }
        }
    }

    @Test func everyFailureIsOneSentence() {
        let faults: [SafetensorsFailure.Fault] = [
            .gitLFSPointer, .webPage, .tooShort(size: 1), .headerTooLong(length: 1), .headerBeyondEnd(length: 1, size: 1), .badMetadata,
            .badEntry(tensor: "t", reason: "r"), .unknownType(tensor: "t", type: "x"), .duplicate(tensor: "t"),
            .sizeMismatch(tensor: "t", stored: 1, expected: 2),
            .tooManyElements(tensor: "t"), .hole(tensor: "t", at: 1, expected: 0), .overlap(tensor: "t", at: 1, expected: 2),
            .truncated(expected: 1, size: 0),
            .trailingBytes(expected: 1, size: 2), .indexWithoutMap, .indexPath(file: "f"), .indexMissingFile(file: "f", tensor: "t"),
            .indexMissingTensor(file: "f", tensor: "t"), .tensorInTwoFiles(tensor: "t", other: "o"),
        ]
        for fault in faults {
            let text = SafetensorsFailure("path", fault).description
            #expect(text.hasPrefix("path: ") && !text.contains("\n") && text.count < 220, "\(text)")
        }
    }
}
