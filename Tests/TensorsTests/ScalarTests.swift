import Foundation
import Recast
import TestSupport
import Testing

/// Every code and every rounding against tables made with ml_dtypes and PyTorch (Tests/Scripts/golden_scalars.py).
@Suite struct ScalarTests {
    static func values() throws -> [Float] {
        try Fixtures.bytes("golden/scalars/values.bin").withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    func same(_ a: Float, _ b: Float) -> Bool { a.isNaN && b.isNaN || a.bitPattern == b.bitPattern }

    @Test func everyCodeHasItsExactValue() throws {
        let expected = try Self.values()
        var mine: [Float] = []
        for code in 0..<256 { mine.append(Float8E4M3(bits: UInt8(code)).value) }
        for code in 0..<256 { mine.append(Float8E5M2(bits: UInt8(code)).value) }
        for code in 0..<256 { mine.append(Float8E8M0(bits: UInt8(code)).value) }
        for code in 0..<16 { mine.append(Float4E2M1(bits: UInt8(code)).value) }
        for code in 0..<65536 { mine.append(BFloat16(bits: UInt16(code)).value) }
        for code in 0..<65536 { mine.append(Binary16(bits: UInt16(code)).value) }
        #expect(mine.count == expected.count)
        let wrong = mine.indices.filter { !same(mine[$0], expected[$0]) }
        #expect(wrong.isEmpty, "positions \(wrong.prefix(5)): \(wrong.prefix(5).map { (mine[$0], expected[$0]) })")
    }

    @Test func roundingAgreesOn65536PatternsWithTies() throws {
        let table = try Fixtures.bytes("golden/scalars/rounded.bin")
        var state: UInt32 = 12345
        var wrong: [String] = []
        for index in 0..<65536 {
            state = state &* 1_664_525 &+ 1_013_904_223
            let low = index % 4 == 0 ? 0x8000 : index % 4 == 1 ? 0 : state >> 16
            let input = Float(bitPattern: UInt32(index) << 16 | low)
            let row = table[(index * 8)..<(index * 8 + 8)].map { UInt16($0) }
            let bf16 = BFloat16(rounding: input), bf16Expected = BFloat16(bits: row[0] | row[1] << 8)
            if !(bf16 == bf16Expected || input.isNaN && bf16.value.isNaN && bf16Expected.value.isNaN) { wrong.append("BF16 of \(input)") }
            let f16 = Binary16(rounding: input), f16Expected = Binary16(bits: row[2] | row[3] << 8)
            if !(f16 == f16Expected || input.isNaN && f16.value.isNaN && f16Expected.value.isNaN) {
                wrong.append("F16 of \(input): \(f16.bits) \(f16Expected.bits)")
            }
            if input.isNaN {
                if !Float8E4M3(rounding: input).value.isNaN || !Float8E5M2(rounding: input).value.isNaN || Float8E8M0(rounding: input).bits != 255 {
                    wrong.append("NaN")
                }
                continue
            }
            if UInt16(Float8E4M3(rounding: input).bits) != row[4] { wrong.append("E4M3 of \(input): \(Float8E4M3(rounding: input).bits) \(row[4])") }
            if UInt16(Float8E5M2(rounding: input).bits) != row[5] { wrong.append("E5M2 of \(input): \(Float8E5M2(rounding: input).bits) \(row[5])") }
            if UInt16(Float8E8M0(rounding: input).bits) != row[6] { wrong.append("E8M0 of \(input): \(Float8E8M0(rounding: input).bits) \(row[6])") }
            if UInt16(Float4E2M1(rounding: input).bits) != row[7] { wrong.append("E2M1 of \(input): \(Float4E2M1(rounding: input).bits) \(row[7])") }
        }
        #expect(wrong.isEmpty, "\(wrong.count): \(wrong.prefix(8))")
    }

    /// Each representable value rounds to itself, and the middle of two neighbours to the even one.
    func checkNeighbours<S: StoredScalar>(_ type: S.Type, positive codes: ClosedRange<Int>) where S.Bits: BinaryInteger {
        for code in codes {
            let value = S(bits: S.Bits(code))
            #expect(S(rounding: value.value) == value)
            guard code < codes.upperBound else { continue }
            let next = S(bits: S.Bits(code + 1))
            let middle = Float((Double(value.value) + Double(next.value)) / 2)
            let even = code % 2 == 0 ? value : next
            #expect(S(rounding: middle) == even, "middle of \(value.value) and \(next.value)")
            #expect(S(rounding: middle.nextDown) == value)
            #expect(S(rounding: middle.nextUp) == next)
        }
    }

    @Test func tiesGoToTheEvenCode() {
        checkNeighbours(Float8E4M3.self, positive: 0...0x7E)
        checkNeighbours(Float8E5M2.self, positive: 0...0x7B)
        checkNeighbours(Float4E2M1.self, positive: 0...7)
        checkNeighbours(Binary16.self, positive: 0...0x7BFF)
    }

    @Test func e4m3SaturatesWherePyTorchVersionsDisagree() {
        for value: Float in [448, 464, 480, 1e9, .infinity] {
            #expect(Float8E4M3(rounding: value).bits == 0x7E)
            #expect(Float8E4M3(rounding: -value).bits == 0xFE)
        }
    }

    @Test func nibblesAreSignedAndOrdered() {
        #expect((0..<16).map { Nibbles.signed(UInt8($0)) } == [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1])
        #expect((0..<256).allSatisfy { Nibbles.pair(low: Nibbles.low(UInt8($0)), high: Nibbles.high(UInt8($0))) == UInt8($0) })
    }

    @Test func everyTypeKnowsItsWidth() {
        #expect(ScalarType.allCases.allSatisfy { ScalarType(rawValue: $0.rawValue) == $0 && [4, 6, 8, 16, 32, 64].contains($0.bitWidth) })
    }

    @Test func shapesAreCheckedForOverflow() {
        #expect(Shape.count([]) == 1)
        // Beside a dimension of 0 the others are looked at all the same.
        #expect(Shape.count([0, Int.max, 2]) == nil && Shape.count([1 << 49, 0]) == nil && Shape.count([0, 1 << 40, 1 << 40]) == nil)
        #expect(Shape.count([0, 1 << 48, 2]) == 0 && Shape.count([1 << 55]) == nil && Shape.count([1 << 40, 1 << 15]) == 1 << 55)
        #expect(Shape.count([Int.max, 2]) == nil)
        #expect(Shape.count([-1]) == nil)
        #expect(Shape.byteCount([Int.max / 2], .f32) == nil)
        #expect(Shape.byteCount([3], .f4) == nil)
        #expect(Shape.byteCount([4], .f4) == 2)
    }
}
