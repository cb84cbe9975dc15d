import Recast
import TestSupport
import Testing

@Suite struct ScaleSearchTests {
    static let grids: [IntegerGrid] = [2, 3, 4, 8].flatMap { bits in
        [
            IntegerGrid(bits: bits, groupSize: 32, zeroPoints: .middle, scaleType: .bf16),
            IntegerGrid(bits: bits, groupSize: 32, zeroPoints: .whole(0...(1 << bits) - 1), scaleType: .f16),
            IntegerGrid(bits: bits, groupSize: 32, zeroPoints: .bias, scaleType: .bf16),
        ]
    }

    static func error(_ weights: WeightRows, _ chosen: QuantizedRows, _ grid: IntegerGrid, _ importance: [Float], power: Double = 2) -> Double {
        var sum = 0.0
        for (index, weight) in weights.values.enumerated() {
            let column = index % weights.columns
            let group = chosen.groups[index / weights.columns * (weights.columns / 32) + column / 32]
            let value = group.scale * Float(chosen.codes[index]) + grid.bias(group)
            let size = Double(abs(weight - value))
            sum += (power == 2 ? size * size : size.squareRoot() * size.squareRoot().squareRoot()) * Double(importance[column])
        }
        return sum
    }

    @Test(arguments: grids) func searchErrsLessThanTheFullRange(_ grid: IntegerGrid) {
        var random = SeededGenerator(3)
        // Rows with outliers, skewed rows, tiny rows.
        let values = (0..<64 * 96).map { index -> Float in
            let row = index / 96
            let value = random.normal(0.02) * (index % 31 == 0 ? 4 : 1)
            return row % 3 == 0 ? value : row % 3 == 1 ? value + 0.03 : value * 1e-6
        }
        let weights = WeightRows(values: values, rows: 64, columns: 96)
        let importance = (0..<96).map { Float(1 + $0 % 5) }
        let full = QuantizedRows(
            codes: ErrorFeedbackTests.nearest(weights, grid, grid.ranges(weights, share: 1)), groups: grid.ranges(weights, share: 1))
        let found = ScaleSearch.search(weights, on: grid, importance: importance)
        let (before, after) = (Self.error(weights, full, grid, importance), Self.error(weights, found, grid, importance))
        #expect(after <= before)
        if grid.bits <= 3 { #expect(after < 0.9 * before) }
        // Weighting pays where it is asked for.
        let plain = ScaleSearch.search(weights, on: grid, importance: nil)
        #expect(after <= Self.error(weights, plain, grid, importance) * 1.0001)
        let robust = HalfQuadratic.quantize(weights, on: grid, RowEvidence())
        let ones = [Float](repeating: 1, count: 96)
        #expect(Self.error(weights, robust, grid, ones, power: 0.75) <= Self.error(weights, full, grid, ones, power: 0.75) * 1.02)
        for group in found.groups + robust.groups + full.groups {
            #expect(group.scale > 0 && grid.scaleType.rounded(group.scale) == group.scale)
            switch grid.zeroPoints {
            case .middle: #expect(group.zero == Float(1 << (grid.bits - 1)))
            case .whole(let range): #expect(group.zero == group.zero.rounded() && range.contains(Int(group.zero)))
            case .bias: #expect(grid.scaleType.rounded(group.bias) == group.bias)
            }
        }
    }

    @Test(arguments: grids) func whatLiesOnAGridIsFoundExactly(_ grid: IntegerGrid) {
        var random = SeededGenerator(9)
        var values: [Float] = []
        for row in 0..<12 {
            let scale = Float(sign: .plus, exponent: -row, significand: 1.25)
            let codes = (0..<32).map { index in
                index == 0 ? 0 : index == 1 ? (1 << grid.bits) - 1 : Int.random(in: 0..<1 << grid.bits, using: &random)
            }
            // The middle is a zero point and a bias alike.
            values += codes.map { Float($0 - (1 << (grid.bits - 1))) * scale }
        }
        let weights = WeightRows(values: values, rows: 12, columns: 32)
        let ones = [Float](repeating: 1, count: 32)
        for chosen in [ScaleSearch.search(weights, on: grid, importance: nil)] { #expect(Self.error(weights, chosen, grid, ones) == 0) }
    }

    @Test(arguments: grids) func zerosAndSingleColumns(_ grid: IntegerGrid) throws {
        let zeros = WeightRows(values: [Float](repeating: 0, count: 64), rows: 1, columns: 64)
        for quantizer in [ScaleSearch.self, HalfQuadratic.self] as [any Quantizer.Type] {
            let chosen = try quantizer.quantize(zeros, on: grid, RowEvidence())
            #expect(Self.error(zeros, chosen, grid, [Float](repeating: 1, count: 64)) == 0)
            let none = WeightRows(values: [], rows: 0, columns: 0)
            #expect(try quantizer.quantize(none, on: grid, RowEvidence()) == QuantizedRows(codes: [], groups: []))
            let short = try quantizer.quantize(WeightRows(values: [0.5, -1.5e-38], rows: 2, columns: 1), on: grid, RowEvidence())
            #expect(short.codes.count == 2 && short.groups.count == 2)
        }
    }

    /// With the layout's own scales no code is farther from its weight than that of its own encoder, which divides as its peer does.
    @Test(arguments: ["int4-g128", "int4-g32", "int3-g128", "int8-channel", "awq", "gptq"])
    func nearestRoundingTakesTheLayoutsScales(_ name: String) throws {
        let layout = try #require(LayoutRegistry.target(named: name)?.layout as? any IntegerCodedLayout)
        let shape = MatrixShape(rows: 32, columns: 256)
        var random = SeededGenerator(22)
        let values = (0..<shape.count).map { _ in BFloat16(rounding: random.normal(0.02)).bits }
        let parts = layout.parts(of: shape)
        let buffers = try parts.map { try AlignedBuffer(byteCount: $0.byteCount) }
        let slices = zip(buffers, parts).map { $0.slice(0..<$1.byteCount) }
        try values.withUnsafeBufferPointer { values throws(EncodingFault) in
            try layout.encode(values, rows: 0..<shape.rows, shape: shape, into: slices)
        }
        let stored = slices.map { UnsafeRawBufferPointer($0) }
        let groups = layout.groups(of: stored, rows: 0..<shape.rows, shape: shape)
        var codes = [UInt8](repeating: 0, count: shape.count)
        codes.withUnsafeMutableBufferPointer {
            layout.readCodes(stored, rows: 0..<shape.rows, shape: shape, into: $0.baseAddress!)
        }
        let weights = WeightRows(values: values.map { BFloat16(bits: $0).value }, rows: shape.rows, columns: shape.columns)
        let grid = IntegerGrid(layout)
        let chosen = try NearestRounding.quantize(weights, on: grid, RowEvidence { groups })
        withExtendedLifetime(buffers) {}
        let hasSameScales = chosen.groups == groups
        #expect(hasSameScales)
        let across = groups.count / shape.rows, size = shape.columns / across
        var differing = 0, farther = 0
        for (index, weight) in weights.values.enumerated() {
            let group = groups[index / shape.columns * across + index % shape.columns / size]
            func error(_ code: UInt8) -> Float { abs(group.scale * Float(code) + grid.bias(group) - weight) }
            differing += chosen.codes[index] != codes[index] ? 1 : 0
            farther += error(chosen.codes[index]) > error(codes[index]) + 1e-7 ? 1 : 0
        }
        #expect(farther == 0 && differing < shape.count / 4, "\(differing) differ")
    }

    @Test func everyQuantizerIsFoundByItsName() {
        #expect(QuantizerName.allCases.map(\.rawValue) == ["rtn", "mse", "hqq", "imatrix", "gptq", "awq"])
        for quantizer in QuantizerName.allCases { #expect(QuantizerName(rawValue: quantizer.rawValue) == quantizer) }
        #expect(QuantizerName(rawValue: "RTN") == nil)
        let grid = IntegerGrid(bits: 4, groupSize: 32, zeroPoints: .middle, scaleType: .bf16)
        let rows = WeightRows(values: [Float](repeating: 1, count: 32), rows: 1, columns: 32)
        // One that is not given what it needs says so.
        for quantizer in [QuantizerName.rtn, .gptq, .awq] {
            #expect(throws: EvidenceMissing.self) { try quantizer.method.quantize(rows, on: grid, RowEvidence()) }
        }
    }

    /// Stored and read back, the search's codes decode to values no farther from the weights than the layout's own encoder's.
    @Test(arguments: [
        "int4-g128", "int4-g32", "int3-g128", "int2-g64-asym", "int8-channel", "awq", "gptq", "gptq-asym", "mlx-4bit", "mlx-3bit", "w4afp8",
        "fp8-block", "fp8-block-ue8m0", "fp8-channel", "mxfp4", "mlx-mxfp4", "nvfp4", "nvfp4-modelopt",
    ])
    func everyLayoutStoresWhatIsChosen(_ name: String) throws {
        var layout = try #require(LayoutRegistry.target(named: name)).layout
        let shape = MatrixShape(rows: 160, columns: 256)
        var random = SeededGenerator(21)
        let values = (0..<shape.count).map { BFloat16(rounding: random.normal(0.02) * ($0 % 61 == 0 ? 3 : 1)).bits }
        var weights: [Float] = []
        if let spanning = layout as? any WholeRangeLayout { layout = spanning.spanning(values.map { $0 & 0x7FFF }.max() ?? 0) }
        func sum(_ quantizer: QuantizerName, _ importance: [Float]? = nil) throws -> Double {
            let parts = layout.parts(of: shape)
            let buffers = try parts.map { try AlignedBuffer(byteCount: $0.byteCount) }
            let slices = zip(buffers, parts).map { $0.slice(0..<$1.byteCount) }
            try values.withUnsafeBufferPointer { values in
                try SearchedEncoding.encode(
                    values, rows: 0..<shape.rows, shape: shape, layout: layout, quantizer: quantizer, importance: importance, into: slices)
            }
            var decoded = [UInt16](repeating: 0, count: shape.count)
            decoded.withUnsafeMutableBufferPointer {
                layout.decode(slices.map { UnsafeRawBufferPointer($0) }, rows: 0..<shape.rows, shape: shape, into: $0)
            }
            return withExtendedLifetime(buffers) {
                zip(values, decoded).enumerated().reduce(0) { sum, entry in
                    let difference = Double(BFloat16(bits: entry.element.0).value - BFloat16(bits: entry.element.1).value)
                    return sum + difference * difference * Double(weights[entry.offset % shape.columns])
                }
            }
        }
        weights = [Float](repeating: 1, count: shape.columns)
        let nearest = try sum(.rtn)
        // E4M3 errs alike on either side of a power of two: there may be nothing to find.
        let onlyPowers = name == "fp8-block-ue8m0"
        #expect(try onlyPowers ? sum(.mse) <= nearest : sum(.mse) < nearest)
        // Weighting pays where it is asked for.
        weights = (0..<shape.columns).map { Float($0 % 7 == 0 ? 50 : 1) }
        #expect(try onlyPowers ? sum(.imatrix, weights) <= sum(.mse) : sum(.imatrix, weights) < sum(.mse))
        #expect((QuantizerName.hqq.obstacle(to: layout) == nil) != (layout is any FloatCodedLayout))
    }

    @Test func valuesThatAreNotFiniteAreNamed() throws {
        let layout = PackedIntegerLayout(bits: 4, groupSize: 32)
        let shape = MatrixShape(rows: 2, columns: 32)
        var values = [UInt16](repeating: 0x3F80, count: 64)
        values[40] = 0x7F80
        let buffers = try layout.parts(of: shape).map { try AlignedBuffer(byteCount: $0.byteCount) }
        let bad = values
        #expect(throws: EncodingFault.notFinite(row: 1)) {
            try bad.withUnsafeBufferPointer { values in
                try SearchedEncoding.encode(
                    values, rows: 0..<2, shape: shape, layout: layout, quantizer: .mse, importance: nil, into: buffers.map(\.bytes))
            }
        }
        withExtendedLifetime(buffers) {}
    }
}

extension ErrorFeedbackTests {
    /// Codes by rounding alone.
    static func nearest(_ weights: WeightRows, _ grid: IntegerGrid, _ groups: [GroupParameters]) -> [UInt8] {
        let size = grid.groupSize ?? weights.columns
        let count = (weights.columns + size - 1) / size
        return weights.values.enumerated().map { index, value in
            let group = groups[index / weights.columns * count + index % weights.columns / size]
            let code = ((value - grid.bias(group)) * (1 / group.scale)).rounded(.toNearestOrEven)
            return UInt8(min(max(code, 0), grid.greatest))
        }
    }
}
