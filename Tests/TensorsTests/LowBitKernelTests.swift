import CKernels
import Recast
import TestSupport
import Testing

/// The low-bit kernels at every level against their slow, obvious twins.
@Suite struct LowBitKernelTests {
    /// Numbers of every size, with ties, zeros of both signs and subnormals among them.
    func values(_ count: Int, _ random: inout SeededGenerator) -> [UInt16] {
        (0..<count).map { _ in
            switch Int.random(in: 0...5, using: &random) {
            case 0: BFloat16(rounding: Float(Int.random(in: -40...40, using: &random)) * 0.25).bits
            case 1: UInt16.random(in: 0...0x7F7F, using: &random) | (Bool.random(using: &random) ? 0x8000 : 0)
            case 2: [0, 0x8000, 1, 0x8001, 0x7F].randomElement(using: &random)!
            default: BFloat16(rounding: random.normal(2)).bits
            }
        }
    }

    func rounded(_ value: Float, _ type: Int32) -> Float {
        type == Int32(CK_TYPE_BF16) ? BFloat16(rounding: value).value : type == Int32(CK_TYPE_F16) ? Binary16(rounding: value).value : value
    }

    @Test(arguments: KernelLevel.available) func rangesHoldEveryValue(_ level: KernelLevel) {
        var random = SeededGenerator(1)
        for (index, count) in [1, 2, 7, 16, 31, 32, 64, 64, 96, 128, 129, 256, 1000].enumerated() {
            var source = values(count, &random)
            // Also of one sign only.
            if index % 3 != 2 { source = source.map { index % 3 == 0 ? $0 | 0x8000 : $0 & 0x7FFF } }
            var least: UInt16 = 0, greatest: UInt16 = 0
            ck_bf16_ranges(level.rawValue, source, count, 1, 1, count, &least, &greatest)
            let numbers = source.map { BFloat16(bits: $0).value }
            #expect(BFloat16(bits: least).value == numbers.min() && BFloat16(bits: greatest).value == numbers.max())
            for bad: UInt16 in [0x7F80, 0xFF80, 0x7FC0, 0xFFC0] {
                source[count / 2] = bad
                ck_bf16_ranges(level.rawValue, source, count, 1, 1, count, &least, &greatest)
                #expect(least & 0x7FFF >= 0x7F80 || greatest & 0x7FFF >= 0x7F80)
            }
        }
    }

    @Test(arguments: KernelLevel.available) func affineCodesAreTheFormulas(_ level: KernelLevel) {
        var random = SeededGenerator(2)
        for round in 0..<300 {
            let count = Int.random(in: 1...140, using: &random)
            let source = values(count, &random)
            let greatest = [3, 7, 15, 255].randomElement(using: &random)! as Float
            let scale = Binary16(rounding: abs(random.normal(0.3)) + 0.001).value * (round % 3 == 2 && Bool.random(using: &random) ? -1 : 1)
            let offset = round % 3 == 2 ? BFloat16(rounding: random.normal(1)).value : Float(Int.random(in: 0...Int(greatest), using: &random))
            var codes = [UInt8](repeating: 0xEE, count: count)
            ck_affine_encode(
                level.rawValue, source, count, 1, 1, count, [scale], [offset], greatest,
                Int32([CK_ZERO_POINT_F32, CK_ZERO_POINT_F16, CK_BIAS_F32][round % 3]), &codes)
            let expected = source.map { bits -> UInt8 in
                let value = BFloat16(bits: bits).value
                func f16(_ value: Float) -> Float { Binary16(rounding: value).value }
                let code =
                    switch round % 3 {
                    case 0: (value / scale).rounded(.toNearestOrEven) + offset
                    case 1: f16(f16(value) / scale).rounded(.toNearestOrEven) + offset
                    default: ((value - offset) / scale).rounded(.toNearestOrEven)
                    }
                return UInt8(min(max(code.isNaN ? 0 : code, 0), greatest))
            }
            #expect(codes == expected, "rule \(round % 3)")
            for type in [CK_TYPE_F32, CK_TYPE_BF16, CK_TYPE_F16].map({ Int32($0) }) {
                for isBias: Int32 in [0, 1] {
                    var decoded = [UInt16](repeating: 0, count: count)
                    ck_affine_decode(level.rawValue, codes, count, scale, offset, isBias, type, &decoded)
                    #expect(
                        decoded
                            == codes.map { code in
                                let value =
                                    isBias == 1
                                    ? rounded(rounded(Float(code) * scale, type) + offset, type)
                                    : rounded(rounded(Float(code) - offset, type) * scale, type)
                                return BFloat16(rounding: value).bits
                            })
                }
            }
        }
    }

    @Test(arguments: KernelLevel.available) func codesOfEveryWidthComeBackFromTheirStream(_ level: KernelLevel) {
        var random = SeededGenerator(3)
        for bits in 1...8 {
            for count in [1, 2, 3, 8, 9, 31, 32, 33, 64, 257] {
                let codes = (0..<count).map { _ in UInt8.random(in: 0...UInt8((1 << bits) - 1), using: &random) }
                let size = (count * bits + 7) / 8
                var stream = [UInt8](repeating: 0xEE, count: size + 8), back = [UInt8](repeating: 0xEE, count: count)
                ck_pack_codes(level.rawValue, codes, count, Int32(bits), &stream)
                var expected = [UInt8](repeating: 0, count: size)
                for (index, code) in codes.enumerated() {
                    for bit in 0..<bits where code >> bit & 1 == 1 { expected[(index * bits + bit) / 8] |= 1 << ((index * bits + bit) % 8) }
                }
                #expect(Array(stream[..<size]) == expected && stream[size...].allSatisfy { $0 == 0xEE }, "\(bits) bits, \(count) codes")
                ck_unpack_codes(level.rawValue, stream, count, Int32(bits), &back)
                #expect(back == codes)
            }
        }
    }

    @Test(arguments: KernelLevel.available) func wordsTurnAndComeBack(_ level: KernelLevel) {
        var random = SeededGenerator(4)
        for (rows, columns) in [(8, 1), (8, 64), (24, 65), (40, 200), (16, 130)] {
            let codes = (0..<rows * columns).map { _ in UInt8.random(in: 0...15, using: &random) }
            var words = [UInt32](repeating: 0xEEEE_EEEE, count: rows / 8 * columns), back = [UInt8](repeating: 0xEE, count: codes.count)
            ck_awq_pack(level.rawValue, codes, rows, columns, &words, rows / 8)
            let order = [0, 2, 4, 6, 1, 3, 5, 7]
            for column in 0..<columns {
                for word in 0..<rows / 8 {
                    let expected = (0..<8).reduce(UInt32(0)) { $0 | UInt32(codes[(word * 8 + order[$1]) * columns + column]) << UInt32(4 * $1) }
                    #expect(words[column * (rows / 8) + word] == expected)
                }
            }
            ck_awq_unpack(level.rawValue, words, rows, columns, &back)
            #expect(back == codes)
            let matrix = (0..<rows * columns).map { UInt32($0) }
            var turned = [UInt32](repeating: 0, count: matrix.count)
            ck_turn_words(level.rawValue, matrix, columns, rows, columns, &turned, rows)
            #expect(turned.indices.allSatisfy { turned[$0] == matrix[$0 % rows * columns + $0 / rows] })
        }
    }

    @Test(arguments: KernelLevel.available) func fp4IsTheScalarType(_ level: KernelLevel) {
        var random = SeededGenerator(5)
        for round in 0..<400 {
            let size = [16, 32, 64, 2 * Int.random(in: 1...40, using: &random)][round % 4]
            let groups = Int.random(in: 1...5, using: &random)
            var source = values(groups * size, &random)
            let powers = (0..<groups).map { _ in Float(sign: .plus, exponent: Int.random(in: -127...127, using: &random), significand: 1) }
            let odd = (0..<groups).map { _ in
                switch Int.random(in: 0...7, using: &random) {
                case 0: Float(bitPattern: UInt32.random(in: 0...0x7F7F_FFFF, using: &random))
                default: abs(random.normal(1)) + 0.01
                }
            }
            // Values next to where codes change.
            for group in 0..<groups {
                for index in 0..<size where index % 2 == 0 {
                    let edge =
                        [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5].randomElement(using: &random)! * (round % 2 == 0 ? odd[group] : 1 / powers[group])
                    let bits = Int(BFloat16(rounding: edge).bits) + Int.random(in: -1...1, using: &random)
                    if (0...0x7F7F).contains(bits) { source[group * size + index] = UInt16(bits) | (index % 4 == 0 ? 0x8000 : 0) }
                }
            }
            func codes(_ scales: [Float], _ rule: Int) -> [UInt8] {
                var bytes = [UInt8](repeating: 0, count: groups * size / 2)
                ck_e2m1_encode(level.rawValue, source, groups, size, scales, Int32(rule), &bytes)
                return bytes.flatMap { [Nibbles.low($0), Nibbles.high($0)] }
            }
            func even(_ value: Float) -> UInt8 { value.isNaN ? 0 : Float4E2M1(rounding: value.magnitude).bits | (value < 0 ? 8 : 0) }
            let numbers = source.enumerated().map { (BFloat16(bits: $0.element).value, $0.offset / size) }
            #expect(codes(odd, CK_E2M1_DIVIDE) == numbers.map { even($0.0 / odd[$0.1]) })
            #expect(codes(powers, CK_E2M1_MULTIPLY) == numbers.map { even(BFloat16(rounding: $0.0 * powers[$0.1]).value) })
            let down = codes(powers, CK_E2M1_MULTIPLY_DOWN)
            for (code, number) in zip(down, numbers) {
                let value = number.0 * powers[number.1], mine = Float4E2M1(bits: code).value
                // The nearest code; of two equally near ones that of smaller magnitude; zero without a sign.
                let distances = (0..<8).map { (abs(Float4E2M1(bits: $0).value - value.magnitude), $0) }
                let best = min(value.magnitude, 6) == 6 ? 7 : distances.min { $0.0 < $1.0 }!.1
                #expect(abs(mine) == Float4E2M1(bits: best).value && (code == 0 || code != 8 && (code & 8 != 0) == (value < 0)))
            }
            let bytes = (0..<groups * size / 2).map { _ in UInt8.random(in: 0...255, using: &random) }
            for negativeZero: Int32 in [0, 1] {
                for factors in [powers, odd] {
                    var decoded = [UInt16](repeating: 0, count: groups * size)
                    ck_e2m1_decode(level.rawValue, bytes, groups, size, factors, negativeZero, &decoded)
                    let expected = bytes.flatMap { [Nibbles.low($0), Nibbles.high($0)] }.enumerated().map { index, code -> UInt16 in
                        code == 8 && negativeZero == 0 ? 0 : BFloat16(rounding: Float4E2M1(bits: code).value * factors[index / size]).bits
                    }
                    #expect(decoded == expected)
                }
            }
        }
    }
}
