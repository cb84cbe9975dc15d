import Foundation
import Recast
import TestSupport
import Testing

/// Difficult matrices, encoded and decoded by compressed-tensors and PyTorch (Tests/Scripts/golden_layouts.py).
@Suite struct GoldenLayoutTests {
    static let golden: [String: (tensor: StoredTensor, bytes: [UInt8])] = {
        do {
            let file = try PositionedFile.openForReading(Fixtures.path("golden/layouts.safetensors"))
            let tensors = try SafetensorsHeader(reading: file).tensors
            return Dictionary(uniqueKeysWithValues: try tensors.map { ($0.name, ($0, try file.read($0.byteCount, at: $0.offset))) })
        } catch {
            Issue.record("\(error)")
            return [:]
        }
    }()

    static let cases = golden.keys.filter { $0.hasSuffix(".input") }.map { String($0.dropLast(6)) }.sorted()

    func words(_ name: String) throws -> [UInt16] {
        try #require(Self.golden[name]).bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt16.self)) }
    }

    /// Encodes in tiles of `step` rows, as a run would.
    @Test(
        arguments: cases,
        [
            "fp8-block", "fp8-block-ue8m0", "fp8-channel", "int4-g128", "int4-g32", "int4-g128-asym", "int8-channel", "w8a8-int8", "int8-block",
            "mxfp8",
        ])
    func bytesAndValuesArePeers(_ name: String, _ target: String) throws {
        let input = try #require(Self.golden[name + ".input"])
        let shape = MatrixShape(input.tensor.shape)
        let layout = try #require(LayoutRegistry.target(named: target)?.layout)
        guard layout.obstacle(to: shape) == nil else {
            #expect(Self.golden["\(name).\(target).decoded"] == nil, "the peer can, we cannot")
            return
        }
        let values = try words(name + ".input")
        let expected = try layout.parts(of: shape).map { part in
            let golden = try #require(Self.golden["\(name).\(target).\(part.leaf)"])
            #expect(golden.tensor.type == part.type && golden.tensor.shape == part.shape, "\(part.leaf)")
            return golden.bytes
        }
        for step in [layout.rowAlignment, layout.rowAlignment * 2, 1 << 20] {
            let stored = try encodeTiles(layout, values, shape, step: step)
            if target == "mxfp8", name == "huge" {
                // The peer rounds an amax of 1.75 * 2^127 and more to infinity, and stores the scale 1 for it.
                #expect(stored[1][0] == 247 && expected[1][0] == 127 && stored[1].dropFirst() == expected[1].dropFirst())
                let decoded = decodeTiles(layout, stored, shape, step: step)
                #expect(zip(values, decoded).allSatisfy { abs(BFloat16(bits: $0).value - BFloat16(bits: $1).value) <= 0x1p123 })
                continue
            }
            for (index, part) in layout.parts(of: shape).enumerated() { #expect(stored[index] == expected[index], "\(part.leaf), tiles of \(step)") }
            #expect(decodeTiles(layout, expected, shape, step: step) == (try words("\(name).\(target).decoded")), "tiles of \(step)")
        }
    }

    @Test(arguments: ["normal", "odd"], ["int3-g64", "int5-g64-asym", "int2-g64-asym", "int8-channel-asym", "int7-channel"])
    func widthsThatAreOnlyReadDecodeLikeThePeer(_ name: String, _ layoutName: String) throws {
        let layouts = [
            "int3-g64": PackedIntegerLayout(bits: 3, groupSize: 64), "int5-g64-asym": PackedIntegerLayout(bits: 5, groupSize: 64, symmetric: false),
            "int2-g64-asym": PackedIntegerLayout(bits: 2, groupSize: 64, symmetric: false),
            "int8-channel-asym": PackedIntegerLayout(bits: 8, groupSize: nil, symmetric: false),
            "int7-channel": PackedIntegerLayout(bits: 7, groupSize: nil),
        ]
        let layout = try #require(layouts[layoutName])
        let shape = MatrixShape(try #require(Self.golden[name + ".input"]).tensor.shape)
        let stored = try layout.parts(of: shape).map { part in
            let golden = try #require(Self.golden["\(name).\(layoutName).\(part.leaf)"])
            #expect(golden.tensor.shape == part.shape && golden.tensor.type == part.type, "\(part.leaf) \(golden.tensor.summary)")
            return golden.bytes
        }
        for step in [layout.rowAlignment, 1 << 20] {
            #expect(decodeTiles(layout, stored, shape, step: step) == (try words("\(name).\(layoutName).decoded")))
        }
        #expect(layout.name == layoutName)
    }

    @Test func otherScaleTypesAndBlocksDecodeByTheFormula() {
        var random = SeededGenerator(11)
        for (rows, columns, block) in [(80, 96, [32, 32]), (5, 200, [1, 128]), (130, 70, [64, 16]), (1, 1, [128, 128])] {
            for type in [ScalarType.f32, .bf16, .f16, .f8E8M0] {
                let layout = BlockScaledFP8Layout(blockRows: block[0], blockColumns: block[1], scaleType: type)
                let shape = MatrixShape(rows: rows, columns: columns)
                let codes = (0..<shape.count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                let across = ceilingDivide(columns, block[1])
                let scales = (0..<ceilingDivide(rows, block[0]) * across).map { _ in
                    Float(sign: .plus, exponent: Int.random(in: -9...3, using: &random), significand: type == .f8E8M0 ? 1 : 1.25)
                }
                let bytes = scales.flatMap { scale -> [UInt8] in
                    switch type {
                    case .f32: CheckpointBuilder.bytes(scale.bitPattern)
                    case .bf16: CheckpointBuilder.bytes(BFloat16(rounding: scale).bits)
                    case .f16: CheckpointBuilder.bytes(Binary16(rounding: scale).bits)
                    default: [Float8E8M0(rounding: scale).bits]
                    }
                }
                let expected = codes.indices.map { index -> UInt16 in
                    let scale = scales[index / columns / block[0] * across + index % columns / block[1]]
                    return BFloat16(rounding: Float8E4M3(bits: codes[index]).value * scale).bits
                }
                let decoded = decodeTiles(layout, [codes, bytes], shape, step: block[0])
                #expect(
                    zip(decoded, expected).allSatisfy { $0 == $1 || BFloat16(bits: $0).value.isNaN && BFloat16(bits: $1).value.isNaN },
                    "\(type) \(block)")
            }
        }
    }

    @Test func quantizersRefuseWhatIsNotFinite() throws {
        let shape = MatrixShape(rows: 4, columns: 128)
        for bad: UInt16 in [0x7F80, 0xFF80, 0x7FC0] {
            var values = [UInt16](repeating: 0x3F80, count: shape.count)
            values[3 * 128 + 77] = bad
            for target in LayoutRegistry.targets where !target.layout.isDense {
                #expect(throws: EncodingFault.self, "\(target.name)") { try encodeTiles(target.layout, values, shape, step: 1 << 20) }
            }
        }
    }

    @Test func f16RefusesWhatOverflowsAndCarriesInfinity() throws {
        let shape = MatrixShape(rows: 1, columns: 3)
        let layout = DenseLayout(.f16)
        #expect(throws: EncodingFault.overflowsF16(row: 0)) { try encodeTiles(layout, [0x3F80, BFloat16(rounding: 66000).bits, 0], shape, step: 1) }
        #expect(try encodeTiles(layout, [0x3F80, 0x7F80, 0x8000], shape, step: 1)[0] == [0x00, 0x3C, 0x00, 0x7C, 0x00, 0x80])
    }

    /// The worked examples of the FORMAT.md pages.
    @Test func documentedExamplesHold() throws {
        let listing: [UInt16] = [
            0xbac9, 0x3bec, 0xbc80, 0x3abc, 0x3c5a, 0xbbbc, 0x3d05, 0xbd03, 0xba87, 0xbbc9, 0x3ba3, 0xbb92, 0x3c96, 0x3b86, 0x3c3c, 0x3c08, 0x3bab,
            0x3c99,
            0xbc29, 0xbd07, 0x3cab, 0x3c2b, 0xbb5b, 0x3a8b, 0x3c39, 0x3d39, 0x3d19, 0xbcc4, 0x3ca3, 0x3c16, 0x3d48, 0xbb40,
        ]
        let shape = MatrixShape(rows: 1, columns: 32)
        let int4 = PackedIntegerLayout(bits: 4, groupSize: 32)
        let symmetric = try encodeTiles(int4, listing, shape, step: 1)
        #expect(symmetric[0] == [0x98, 0x86, 0x7a, 0x3d, 0x78, 0x79, 0x9b, 0x9a, 0xb9, 0x36, 0xab, 0x87, 0xfa, 0x4e, 0x9b, 0x8f])
        #expect(symmetric[1] == [0xd5, 0x3b])
        #expect(decodeTiles(int4, symmetric, shape, step: 1).prefix(8) == [0x0000, 0x3bd5, 0xbc55, 0x0000, 0x3c55, 0xbbd5, 0x3d05, 0xbd05])
        let asymmetric = try encodeTiles(PackedIntegerLayout(bits: 4, groupSize: 32, symmetric: false), listing, shape, step: 1)
        #expect(asymmetric[0] == [0x76, 0x63, 0x58, 0x0c, 0x56, 0x57, 0x79, 0x88, 0x97, 0x04, 0x8a, 0x65, 0xe8, 0x2d, 0x8a, 0x5f])
        #expect(asymmetric[1] == [0xb3, 0x3b] && asymmetric[3] == [6, 0, 0, 0])
        let fp8 = try encodeTiles(BlockScaledFP8Layout(), listing, shape, step: 128)
        #expect(fp8[0].prefix(16) == [0xd6, 0x68, 0xf1, 0x55, 0x6f, 0xe5, 0x79, 0xf9, 0xd1, 0xe6, 0x63, 0xe2, 0x72, 0x61, 0x6d, 0x6a])
        #expect(fp8[1] == [0x49, 0x92, 0xe4, 0x38])
        #expect(
            decodeTiles(BlockScaledFP8Layout(), fp8, shape, step: 128).prefix(8) == [0xbac8, 0x3be5, 0xbc81, 0x3aba, 0x3c56, 0xbbba, 0x3d01, 0xbd01])
        let channel = try encodeTiles(FloatQuantizedLayout(), [0x3f00, 0xbe80, 0x3dcd], MatrixShape(rows: 1, columns: 3), step: 1)
        #expect(channel[0] == [0x7e, 0xf6, 0x6b] && channel[1] == [0x92, 0x3a], "\(channel)")
        #expect(decodeTiles(FloatQuantizedLayout(), channel, MatrixShape(rows: 1, columns: 3), step: 1) == [0x3f00, 0xbe80, 0x3dc9])
        let row = MatrixShape(rows: 1, columns: 3)
        let int8 = try encodeTiles(IntegerQuantizedLayout(), [0x3f00, 0xbe80, 0x3dcd], row, step: 1)
        #expect(int8 == [[0x7f, 0xc0, 0x19], [0x81, 0x3b]])
        #expect(decodeTiles(IntegerQuantizedLayout(), int8, row, step: 1) == [0x3f00, 0xbe81, 0x3dca])
        let eightBit = [0x3f00, 0xbe80, 0x3dcd] + [UInt16](repeating: 0, count: 29)
        let mxfp8 = try encodeTiles(MXFP8Layout(), eightBit, shape, step: 1)
        #expect(mxfp8[0].prefix(3) == [0x78, 0xf0, 0x65] && mxfp8[1] == [118])
        #expect(decodeTiles(MXFP8Layout(), mxfp8, shape, step: 1).prefix(3) == [0x3f00, 0xbe80, 0x3dd0])
        func bytes(_ text: String) -> [UInt8] { text.split(separator: " ").compactMap { UInt8($0, radix: 16) } }
        let tall = listing + [UInt16](repeating: 0, count: 7 * 32)
        let eight = MatrixShape(rows: 8, columns: 32)
        let awq = try encodeTiles(AWQLayout(groupSize: 32), tall, eight, step: 8)
        #expect(stride(from: 0, to: 32, by: 4).map { awq[0][$0] } == [6, 7, 3, 6, 8, 5, 0xc, 0] && awq[1] == [6, 0, 0, 0])
        #expect(awq[2].prefix(4) == [0x95, 0x1d, 0x0b, 0x00])
        #expect(decodeTiles(AWQLayout(groupSize: 32), awq, eight, step: 8).prefix(8) == [0, 0x3bb3, 0xbc86, 0, 0x3c33, 0xbbb3, 0x3d06, 0xbd06])
        let gptq = try encodeTiles(GPTQLayout(groupSize: 32), tall, eight, step: 8)
        #expect((0..<4).flatMap { gptq[0][($0 * 32)..<($0 * 32 + 4)] } == symmetric[0])
        #expect(gptq[1] == bytes("77 77 77 77") && gptq[2].prefix(4) == [0xab, 0x1e, 0x44, 0x30])
        let mlx = try encodeTiles(MLXAffineLayout(group: 32), listing, shape, step: 1)
        #expect(mlx[0] == bytes("89 9c a7 f3 a9 a8 86 77 68 fb 75 9a 17 d2 75 a0") && mlx[1] == [0xb2, 0xbb] && mlx[2] == [0x48, 0x3d])
        let mxfp4 = try encodeTiles(MXFP4Layout(), listing, shape, step: 1)
        #expect(mxfp4 == [bytes("28 0c 93 e6 a8 91 14 23 41 eb 35 09 73 d6 25 97"), [0x78]])
        #expect(
            try encodeTiles(MXFP4Layout(naming: .mlx), listing, shape, step: 1)
                == [bytes("10 0a 92 c4 90 91 12 11 21 c9 13 00 51 b4 13 05"), [0x79]])
        let amax = listing.map { $0 & 0x7FFF }.max() ?? 0
        #expect(
            try encodeTiles(NVFP4Layout(amax: amax), listing, shape, step: 1)
                == [bytes("39 1d a5 f7 a8 a2 25 34 41 eb 35 09 73 d6 24 97"), [0x79, 0x7e], bytes("00 00 57 47")])
        #expect(
            try encodeTiles(NVFP4Layout(naming: .modelOpt, amax: amax), listing, shape, step: 1)
                == [bytes("39 1d a5 f7 a8 a2 26 34 41 eb 35 09 73 d6 24 97"), [0x79, 0x7e], bytes("86 61 98 37")])
        let w4afp8 = try encodeTiles(W4AFP8Layout(), listing + listing + listing + listing, MatrixShape(rows: 1, columns: 128), step: 1)
        #expect(w4afp8[0].prefix(16) == bytes("10 0e f2 b5 f0 f1 13 12 31 be 23 0f 72 c6 13 07")[...] && w4afp8[1] == [0xd5, 0x3b])
    }
}
