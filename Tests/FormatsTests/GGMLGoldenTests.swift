import CKernels
import Foundation
import Recast
import TestSupport
import Testing

/// Blocks of difficult matrices and values of difficult blocks, against ggml (`Tests/Scripts/golden_ggml.py`, which says what the inputs are).
@Suite struct GGMLGoldenTests {
    private static let golden = Result { try JSONValue(parsing: Fixtures.bytes("golden/ggml.json")) }

    /// The names in the file are those of the types, but for ggml's spelling of one letter.
    private static let types = ScalarType.allCases.filter { $0.block != nil }

    private struct Matrix: Sendable {
        var values: [Float]
        var importance: [Float]
        var rows: Int
        var columns: Int

        init(kind: String, seed: UInt64, rows: Int, columns: Int) throws {
            (self.rows, self.columns) = (rows, columns)
            var random = SeededGenerator(seed)
            func unit(_ random: inout SeededGenerator) -> Float { Float(random.next() >> 40) / Float(1 << 24) }
            values = [Float](repeating: 0, count: rows * columns)
            for row in 0..<rows {
                if kind == "spike" {
                    let column = Int(random.next() % UInt64(columns))
                    values[row * columns + column] = random.normal(4)
                    continue
                }
                let constant = kind == "constant" ? random.normal(1) : 0
                var scale: Float = 1
                var isZero = false
                for column in 0..<columns {
                    if kind == "blocks", column % 32 == 0 { scale = Float(sign: .plus, exponent: Int(random.next() % 25) - 16, significand: 1) }
                    if kind == "zeros", column % 16 == 0 { isZero = random.next() % 2 == 1 }
                    let value: Float
                    switch kind {
                    case "normal": value = random.normal(0.02)
                    case "uniform": value = unit(&random) * 2 - 1
                    case "blocks": value = random.normal(1) * scale
                    case "zeros": value = isZero ? 0 : random.normal(0.5)
                    case "subnormal": value = random.normal(Float(1e-40 as Double))
                    case "huge": value = (unit(&random) * 2 - 1) * 65504
                    case "overflow": value = random.normal(1e30)
                    case "negative": value = -abs(random.normal(3))
                    case "constant": value = constant
                    case "ties": value = Float(Int(random.next() % 17) - 8) * 0.125
                    case "offset": value = random.normal(0.01) + 1
                    default: throw CocoaError(.featureUnsupported)
                    }
                    values[row * columns + column] = value
                }
            }
            var other = SeededGenerator(seed + 1000)
            importance = (0..<columns).map { _ in
                let value = unit(&other)
                return other.next() % 8 == 0 ? 0 : value * value
            }
        }
    }

    private static func digest(_ values: [Float]) -> String { Digest.of([UInt8](bytesOf: values)) }

    /// Null stands for values that hold a NaN.
    private static func expect(_ values: [Float], _ golden: JSONValue, _ comment: String) {
        if golden == .null {
            #expect(values.contains { $0.isNaN }, "\(comment)")
        } else {
            #expect(digest(values) == golden.string, "\(comment)")
        }
    }

    @Test(arguments: types, KernelLevel.available) func blocksAreGGMLs(_ type: ScalarType, _ level: KernelLevel) throws {
        let golden = try Self.golden.get()
        let block = try #require(type.block), codec = try #require(GGMLCodec(type))
        let some = try #require(golden["blocks"]?[type.rawValue])
        let count = try #require(some["count"]?.int)
        var random = SeededGenerator(UInt64(try #require(some["seed"]?.int)))
        var bytes = [UInt8](bytesOf: (0..<(count * block.bytes + 7) / 8).map { _ in random.next() })
        bytes.removeLast(bytes.count - count * block.bytes)
        for field in try #require(Self.fields[type.rawValue]) {
            for start in stride(from: 0, to: bytes.count, by: block.bytes) { bytes[start + field] &= 0xBF }
        }
        #expect(Digest.of(bytes) == some["bytes"]?.string)
        var values = [Float](repeating: 0, count: count * block.values)
        codec.decode(level.rawValue, bytes, &values, count)
        Self.expect(values, some["values"] ?? .string(""), "arbitrary blocks")

        guard let encode = codec.encode else {
            #expect(golden["encoded"]?[type.rawValue] == nil)
            return
        }
        let matrices = try #require(golden["matrices"]?.array), encoded = try #require(golden["encoded"]?[type.rawValue]?.array)
        #expect(matrices.count == encoded.count && matrices.count == 36)
        for (described, expected) in zip(matrices, encoded) {
            let kind = try #require(described["kind"]?.string), rows = try #require(described["rows"]?.int)
            let columns = try #require(described["columns"]?.int)
            let matrix = try Matrix(kind: kind, seed: UInt64(try #require(described["seed"]?.int)), rows: rows, columns: columns)
            #expect(Self.digest(matrix.values) == described["values"]?.string && Self.digest(matrix.importance) == described["importance"]?.string)
            guard let expected = expected.array else {
                #expect(columns % block.values != 0, "\(kind)")
                continue
            }
            for (index, importance) in [nil, matrix.importance].enumerated() {
                var blocks = [UInt8](repeating: 0, count: rows * columns / block.values * block.bytes)
                encode(level.rawValue, matrix.values, importance, &blocks, rows, columns)
                #expect(Digest.of(blocks) == expected[index].string, "\(kind) \(rows) x \(columns), importance \(importance != nil)")
                var decoded = [Float](repeating: 0, count: rows * columns)
                codec.decode(level.rawValue, blocks, &decoded, rows * columns / block.values)
                Self.expect(decoded, expected[2 + index], "\(kind) \(rows) x \(columns), decoded")
            }
        }
    }

    /// Upper bytes of the F16 fields of a block.
    private static let fields: [String: [Int]] = [
        "Q4_0": [1], "Q4_1": [1, 3], "Q5_0": [1], "Q5_1": [1, 3], "Q8_0": [1], "Q2_K": [81, 83], "Q3_K": [109], "Q4_K": [1, 3], "Q5_K": [1, 3],
        "Q6_K": [209], "IQ4_NL": [1], "IQ4_XS": [1], "MXFP4": [], "NVFP4": [], "TQ1_0": [53], "TQ2_0": [65], "IQ1_S": [1], "IQ1_M": [55],
        "IQ2_XXS": [1], "IQ2_XS": [1], "IQ2_S": [1], "IQ3_XXS": [1], "IQ3_S": [1],
    ]
}
