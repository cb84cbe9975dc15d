import CKernels
import Foundation
import Recast
import TestSupport
import Testing

/// Each C kernel at each level that this processor runs, bit for bit against a loop over the scalar types.
@Suite struct KernelTests {
    static let levels = KernelLevel.available

    /// Sizes around every vector width.
    static let sizes = [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 320]

    func words(_ count: Int, _ random: inout SeededGenerator, finite: Bool) -> [UInt16] {
        (0..<count).map { _ in
            while true {
                let bits = UInt16(truncatingIfNeeded: random.next())
                if !finite || bits & 0x7F80 != 0x7F80 { return bits }
            }
        }
    }

    func sameBF16(_ a: [UInt16], _ b: [UInt16]) -> Bool {
        zip(a, b).allSatisfy { $0 == $1 || BFloat16(bits: $0).value.isNaN && BFloat16(bits: $1).value.isNaN }
    }

    @Test(arguments: levels, [-Float.infinity, 1.5]) func softmaxSumsInSixteenLanes(_ level: KernelLevel, _ sink: Float) {
        var random = SeededGenerator(43)
        for count in Self.sizes {
            for rounds in [false, true] {
                let scores = (0..<count).map { _ in Float.random(in: -30...30, using: &random) }
                let scaled = scores.map { rounds ? BFloat16(rounding: $0 * 0.125).value : $0 * 0.125 }
                let greatest = scaled.reduce(sink, max)
                var expected = scaled.map { $0 - greatest }
                var share = sink - greatest
                ck_exp(KernelLevel.plain.rawValue, &expected, count)
                ck_exp(KernelLevel.plain.rawValue, &share, 1)
                var lanes = [Double](repeating: 0, count: 16)
                for (index, value) in expected.enumerated() { lanes[index % 16] += Double(value) }
                let factor = Float(1 / lanes.reduce(Double(share), +))
                var found = scores
                ck_softmax(level.rawValue, &found, count, 0.125, sink, rounds ? 1 : 0)
                #expect(found == expected.map { $0 * factor })
            }
        }
        // Hidden scores take no part; what is no number makes all no number, wherever it lies.
        var hidden: [Float] = [1, -.infinity, 1]
        ck_softmax(level.rawValue, &hidden, 3, 1, -.infinity, 0)
        #expect(hidden == [0.5, 0, 0.5])
        for place in [0, 15, 16, 36] {
            var scores = [Float](repeating: 0.5, count: 37)
            scores[place] = .nan
            ck_softmax(level.rawValue, &scores, 37, 1, sink, 0)
            #expect(scores.allSatisfy { $0.isNaN })
        }
        var scores: [Float] = [0, 1]
        ck_softmax(level.rawValue, &scores, 2, 1, .nan, 0)
        #expect(scores.allSatisfy { $0.isNaN })
    }

    @Test(arguments: levels, [2, 4]) func planesAreTheRotatedBytes(_ level: KernelLevel, _ width: Int) {
        var random = SeededGenerator(41)
        for count in Self.sizes {
            let numbers = (0..<count * width).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            var planes = [UInt8](repeating: 0, count: numbers.count)
            var back = planes
            ck_split_planes(level.rawValue, numbers, &planes, count, Int32(width))
            for index in 0..<count {
                let value = (0..<width).reduce(UInt64(0)) { $0 | UInt64(numbers[index * width + $1]) << UInt64(8 * $1) }
                let bits = UInt64(8 * width)
                let rotated = value << 1 | value >> (bits - 1)
                for plane in 0..<width {
                    #expect(planes[plane * count + index] == UInt8(truncatingIfNeeded: rotated >> UInt64(8 * (width - 1 - plane))))
                }
            }
            ck_join_planes(level.rawValue, planes, &back, count, Int32(width))
            #expect(back == numbers)
        }
    }

    @Test(arguments: levels) func e4m3DecodesLikeTheScalarLoop(_ level: KernelLevel) {
        var random = SeededGenerator(1)
        let scales: [Float] = [1, 1.1e-4, 3e38, 1e-38, .leastNonzeroMagnitude, 0, 0x1p-120, 0x1p118, 0x1p120, -2.5, .infinity, .nan, 448, 1 / 3]
        for scale in scales {
            for columns in Self.sizes {
                let rows = 3, block = 33
                let codes = (0..<rows * columns).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                let blocks = ceilingDivide(columns, block)
                let blockScales = (0..<blocks).map { $0 % 2 == 0 ? scale : 0.37 }
                var result = [UInt16](repeating: 0xABCD, count: rows * columns)
                var tables = [UInt16](repeating: 0, count: Int(CK_TABLE_WORDS) * blocks)
                ck_e4m3_decode(level.rawValue, codes, &result, rows, columns, block, blockScales, &tables)
                let expected = codes.indices.map { BFloat16(rounding: Float8E4M3(bits: codes[$0]).value * blockScales[$0 % columns / block]).bits }
                #expect(sameBF16(result, expected), "scale \(scale), \(columns) columns")
            }
        }
    }

    @Test(arguments: levels) func everyCodeTimesManyScalesDecodesExactly(_ level: KernelLevel) {
        let codes = (0..<256).map { UInt8($0) }
        var random = SeededGenerator(2)
        var tables = [UInt16](repeating: 0, count: Int(CK_TABLE_WORDS))
        for _ in 0..<2000 {
            let scale = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()) & 0x7FFF_FFFF)
            var scales = [scale]
            var result = [UInt16](repeating: 0, count: 256)
            ck_e4m3_decode(level.rawValue, codes, &result, 1, 256, 256, &scales, &tables)
            #expect(sameBF16(result, codes.map { BFloat16(rounding: Float8E4M3(bits: $0).value * scale).bits }), "scale \(scale)")
        }
    }

    @Test(arguments: levels) func e4m3EncodesEveryBF16LikeTheScalarLoop(_ level: KernelLevel) {
        let values = (0..<65536).map { UInt16($0) }.filter { $0 & 0x7F80 != 0x7F80 }
        var random = SeededGenerator(3)
        var scales: [Float] = [1, 1e-4 / 448, 0x1p-100, 0x1p100, 3e38, 1e-38, .leastNonzeroMagnitude, 0x1p-111, 0x1p-110, 7 / 448]
        for _ in 0..<60 { scales.append(Float(bitPattern: UInt32(truncatingIfNeeded: random.next()) % 0x7F00_0000 + 0x0080_0000)) }
        for scale in scales {
            var result = [UInt8](repeating: 0, count: values.count)
            ck_e4m3_encode(level.rawValue, values, values.count, &result, values.count, 1, values.count, scale)
            let wrong = values.indices.filter { result[$0] != Float8E4M3(rounding: BFloat16(bits: values[$0]).value / scale).bits }
            #expect(wrong.isEmpty, "scale \(scale): \(wrong.count) wrong, first \(wrong.first.map { values[$0] } ?? 0)")
        }
    }

    @Test(arguments: levels) func e4m3ThroughBF16EncodesLikeTheScalarLoop(_ level: KernelLevel) {
        let values = (0..<65536).map { UInt16($0) }.filter { $0 & 0x7F80 != 0x7F80 }
        // Every scale significand at a few exponents, those at the ends of the vector path's range included.
        for exponent in [1, 27, 28, 100, 127, 130, 226, 227, 254] {
            for mantissa in stride(from: 0, to: 128, by: 5) {
                let scale = UInt16(exponent << 7 | mantissa)
                var result = [UInt8](repeating: 0, count: values.count)
                ck_e4m3_encode_bf16_scale(level.rawValue, values, scale, values.count, &result)
                let divisor = BFloat16(bits: scale).value
                let wrong = values.indices.filter {
                    result[$0] != Float8E4M3(rounding: BFloat16(rounding: BFloat16(bits: values[$0]).value / divisor).value).bits
                }
                #expect(wrong.isEmpty, "scale \(divisor): \(wrong.count) wrong")
            }
        }
    }

    func code(_ w: UInt16, _ scale: UInt16, _ zero: Int8?, _ least: Float, _ greatest: Float) -> Int {
        var q = BFloat16(rounding: BFloat16(bits: w).value / BFloat16(bits: scale).value).value
        if let zero { q = BFloat16(rounding: q + Float(zero)).value }
        return Int(min(max(q, least), greatest).rounded(.toNearestOrEven))
    }

    @Test(arguments: levels) func int4EncodesLikeTheScalarLoop(_ level: KernelLevel) {
        var random = SeededGenerator(4)
        for size in [2, 16, 18, 32, 34, 64, 128] {
            for round in 0..<40 {
                let groups = 37
                let values = words(groups * size, &random, finite: true)
                var scales = words(groups, &random, finite: true).map { $0 & 0x7FFF | 1 }
                // Half of the rounds with scales that fit the values, so that codes are not all clamped.
                if round % 2 == 0 {
                    scales = (0..<groups).map { g in
                        BFloat16(rounding: (values[(g * size)..<((g + 1) * size)].map { BFloat16(bits: $0).value.magnitude }.max() ?? 1) / 7.5).bits
                            | 1
                    }
                }
                let zeros = round % 3 == 0 ? (0..<groups).map { _ in Int8.random(in: -8...7, using: &random) } : nil
                var result = [UInt8](repeating: 0, count: groups * size / 2)
                ck_int4_encode(level.rawValue, values, scales, zeros, groups, size, &result)
                let expected = result.indices.map { byte -> UInt8 in
                    let pair = [2 * byte, 2 * byte + 1].map { UInt8(code(values[$0], scales[$0 / size], zeros?[$0 / size], -8, 7) + 8) }
                    return Nibbles.pair(low: pair[0], high: pair[1])
                }
                #expect(result == expected, "group size \(size), round \(round)")
            }
        }
    }

    /// The claim behind multiplying by the reciprocal: the BF16 quotient is the same for all pairs of significands.
    @Test func reciprocalGivesTheSameQuotientForAllSignificands() {
        for a in 128..<256 {
            for b in 128..<256 {
                let (w, s) = (Float(a), Float(b))
                #expect(BFloat16(rounding: w * (1 / s)) == BFloat16(rounding: w / s))
            }
        }
    }

    @Test(arguments: levels) func int4DecodesLikeTheScalarLoop(_ level: KernelLevel) {
        var random = SeededGenerator(5)
        for size in [2, 30, 32, 64, 128] {
            for round in 0..<20 {
                let groups = 19
                let codes = (0..<groups * size / 2).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                let scales = words(groups, &random, finite: round % 4 != 0)
                let zeros = round % 2 == 0 ? (0..<groups).map { _ in Int8.random(in: -8...7, using: &random) } : nil
                var result = [UInt16](repeating: 0, count: groups * size)
                ck_int4_decode(level.rawValue, codes, scales, zeros, groups, size, &result)
                let expected = result.indices.map { i -> UInt16 in
                    let nibble = i % 2 == 0 ? Nibbles.low(codes[i / 2]) : Nibbles.high(codes[i / 2])
                    let difference = BFloat16(rounding: Float(Int(nibble) - 8) - Float(zeros?[i / size] ?? 0)).value
                    return BFloat16(rounding: difference * BFloat16(bits: scales[i / size]).value).bits
                }
                #expect(sameBF16(result, expected), "group size \(size), round \(round)")
            }
        }
    }

    @Test(arguments: levels) func int8CodesLikeTheScalarLoop(_ level: KernelLevel) {
        var random = SeededGenerator(6)
        for size in Self.sizes {
            let groups = 5
            let values = words(groups * size, &random, finite: true)
            let scales = (0..<groups).map { g in
                BFloat16(rounding: (values[(g * size)..<((g + 1) * size)].map { BFloat16(bits: $0).value.magnitude }.max() ?? 1) / 127.5).bits | 1
            }
            var codes = [UInt8](repeating: 0, count: values.count)
            ck_int8_encode(level.rawValue, values, scales, groups, size, &codes)
            #expect(codes == values.indices.map { UInt8(code(values[$0], scales[$0 / size], nil, -128, 127) + 128) }, "\(size)")
            var decoded = [UInt16](repeating: 0, count: values.count)
            ck_int8_decode(level.rawValue, codes, scales, groups, size, &decoded)
            #expect(
                decoded == codes.indices.map { BFloat16(rounding: Float(Int(codes[$0]) - 128) * BFloat16(bits: scales[$0 / size]).value).bits },
                "\(size)")
        }
    }

    @Test(arguments: levels) func rangesAreThoseOfTheScalarLoop(_ level: KernelLevel) {
        var random = SeededGenerator(7)
        for size in Self.sizes {
            let groups = 6
            var values = words(groups * size, &random, finite: false)
            var amax = [UInt16](repeating: 0, count: groups)
            ck_bf16_group_amax(level.rawValue, values, groups, size, &amax)
            #expect(amax == (0..<groups).map { g in values[(g * size)..<((g + 1) * size)].map { $0 & 0x7FFF }.max()! })
            #expect(ck_bf16_amax(level.rawValue, values, size, groups, size) == amax.max()!)
            values = words(groups * size, &random, finite: true)
            values[0] = 0x8000
            var least = amax, greatest = amax
            ck_bf16_group_range(level.rawValue, values, groups, size, &least, &greatest)
            for g in 0..<groups {
                let floats = values[(g * size)..<((g + 1) * size)].map { BFloat16(bits: $0).value }
                #expect(BFloat16(bits: least[g]).value == min(0, floats.min()!) && least[g] != 0x8000)
                #expect(BFloat16(bits: greatest[g]).value == max(0, floats.max()!))
            }
        }
    }

    @Test(arguments: levels) func denseConversionsAreThoseOfTheScalarTypes(_ level: KernelLevel) {
        let all = (0..<65536).map { UInt16($0) }
        var floats = [Float](repeating: 0, count: all.count)
        ck_f16_to_f32(level.rawValue, all, &floats, all.count)
        #expect(zip(all, floats).allSatisfy { Binary16(bits: $0).value.bitPattern == $1.bitPattern })
        ck_bf16_to_f32(all, &floats, all.count)
        #expect(zip(all, floats).allSatisfy { BFloat16(bits: $0).value.bitPattern == $1.bitPattern })
        var random = SeededGenerator(8)
        let inputs = (0..<200_000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next())) }
        var halves = [UInt16](repeating: 0, count: inputs.count)
        ck_f32_to_f16(level.rawValue, inputs, &halves, inputs.count)
        #expect(zip(inputs, halves).allSatisfy { Binary16(rounding: $0).bits == $1 })
        ck_f32_to_bf16(inputs, &halves, inputs.count)
        #expect(zip(inputs, halves).allSatisfy { BFloat16(rounding: $0).bits == $1 })
    }

    @Test(arguments: levels) func errorSumsHaveTheSameBitsAtEveryLevel(_ level: KernelLevel) {
        var random = SeededGenerator(9)
        for size in Self.sizes + [1000] {
            for finite in [true, false] {
                var a = words(size, &random, finite: finite), b = a
                for index in b.indices where index % 3 == 0 { b[index] = UInt16(truncatingIfNeeded: random.next()) & (finite ? 0xBFFF : 0xFFFF) }
                if finite { a = a.map { $0 & 0xBFFF }; b = b.map { $0 & 0xBFFF } }
                var plain = ck_error_sums(), mine = ck_error_sums(), floats = ck_error_sums()
                ck_bf16_error(KernelLevel.plain.rawValue, a, b, size, &plain)
                ck_bf16_error(level.rawValue, a, b, size, &mine)
                ck_f32_error(a.map { BFloat16(bits: $0).value }, b.map { BFloat16(bits: $0).value }, size, &floats)
                for other in [mine, floats] {
                    #expect(
                        plain.signal.bitPattern == other.signal.bitPattern && plain.noise.bitPattern == other.noise.bitPattern
                            || plain.noise.isNaN && other.noise.isNaN)
                    #expect(plain.different == other.different)
                    #expect(plain.absolute.bitPattern == other.absolute.bitPattern || plain.absolute.isNaN && other.absolute.isNaN)
                    #expect(plain.max_abs.bitPattern == other.max_abs.bitPattern || plain.max_abs.isNaN && other.max_abs.isNaN)
                }
                var noise = ck_error_sums()
                ck_bf16_noise(level.rawValue, a, b, size, &noise)
                #expect(
                    noise.signal.bitPattern == plain.signal.bitPattern && noise.max_abs.bitPattern == plain.max_abs.bitPattern
                        && noise.noise.bitPattern == plain.noise.bitPattern || noise.noise.isNaN && plain.noise.isNaN)
                #expect(
                    plain.different
                        == zip(a, b).count {
                            !(BFloat16(bits: $0).value == BFloat16(bits: $1).value
                                || BFloat16(bits: $0).value.isNaN && BFloat16(bits: $1).value.isNaN)
                        })
            }
        }
    }
}
