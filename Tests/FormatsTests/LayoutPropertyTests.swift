import Recast
import TestSupport
import Testing

/// Laws that every layout keeps, over random shapes: what is stored is recognised, tiles partition the bytes, and how a weight is cut changes
/// nothing.
@Suite struct LayoutPropertyTests {
    static let targets = LayoutRegistry.targets.filter { $0.besideExperts == nil }

    /// A shape that the layout can hold: some multiple of its units, and edges that do not divide where it allows them.
    private static func shapes(_ layout: any WeightLayout, _ random: inout SeededGenerator) -> [MatrixShape] {
        var shapes = [MatrixShape(rows: 256, columns: 512)]
        for _ in 0..<200 where shapes.count < 5 {
            let shape = MatrixShape(rows: 1 + Int(random.next() % 300), columns: 8 * (1 + Int(random.next() % 80)))
            if layout.obstacle(to: shape) == nil { shapes.append(shape) }
        }
        return shapes
    }

    private static func tiles(_ layout: any WeightLayout, _ shape: MatrixShape, _ random: inout SeededGenerator) -> [Range<Int>] {
        var tiles: [Range<Int>] = []
        while (tiles.last?.upperBound ?? 0) < shape.rows {
            let start = tiles.last?.upperBound ?? 0
            tiles.append(start..<min(shape.rows, start + layout.rowAlignment * (1 + Int(random.next() % 5))))
        }
        return tiles
    }

    private static func values(_ count: Int, _ random: inout SeededGenerator) -> [UInt16] {
        (0..<count).map { _ in BFloat16(rounding: Float(Int(random.next() % 20001) - 10000) / 3000).bits }
    }

    @Test(arguments: targets.map(\.name)) func tilesPartitionEveryPart(_ name: String) throws {
        let layout = try #require(LayoutRegistry.target(named: name)).layout
        var random = SeededGenerator(UInt64(name.utf8.reduce(0) { $0 &* 31 &+ Int($1) } & 0xFFFF))
        for shape in Self.shapes(layout, &random) {
            let tiles = Self.tiles(layout, shape, &random)
            for part in layout.parts(of: shape) where part.rows != .whole {
                var seen = [UInt8](repeating: 0, count: part.byteCount)
                for tile in tiles { for run in part.runs(of: tile, in: shape).ranges { for byte in run { seen[byte] += 1 } } }
                #expect(seen.allSatisfy { $0 == 1 }, "\(name), \(shape), \(part.leaf)")
            }
        }
    }

    @Test(arguments: targets.map(\.name)) func cutsChangeNothing(_ name: String) throws {
        var layout = try #require(LayoutRegistry.target(named: name)).layout
        if let whole = layout as? any WholeRangeLayout { layout = whole.spanning(BFloat16(rounding: 10).bits) }
        var random = SeededGenerator(9)
        for shape in Self.shapes(layout, &random) {
            let values = Self.values(shape.count, &random)
            let parts = layout.parts(of: shape)
            let whole = try Self.encode(layout, values, 0..<shape.rows, shape)
            for _ in 0..<2 {
                var joined = parts.map { [UInt8](repeating: 0xEE, count: $0.byteCount) }
                for tile in Self.tiles(layout, shape, &random) {
                    let piece = Array(values[tile.lowerBound * shape.columns..<tile.upperBound * shape.columns])
                    for (index, bytes) in try Self.encode(layout, piece, tile, shape).enumerated() {
                        var start = 0
                        for run in parts[index].runs(of: tile, in: shape).ranges {
                            joined[index].replaceSubrange(run, with: bytes[start..<start + run.count])
                            start += run.count
                        }
                    }
                }
                #expect(joined == whole, "\(name), \(shape)")
            }
            // What was stored decodes to the same values in pieces.
            let all = Self.decode(layout, whole, 0..<shape.rows, shape)
            for tile in Self.tiles(layout, shape, &random) {
                let slices = parts.enumerated().map { index, part in part.runs(of: tile, in: shape).ranges.flatMap { Array(whole[index][$0]) } }
                #expect(Self.decode(layout, slices, tile, shape) == Array(all[tile.lowerBound * shape.columns..<tile.upperBound * shape.columns]))
            }
        }
    }

    /// The wide values of a layout, rounded to BF16, are those that pass between coded layouts, however the weight is cut.
    @Test(arguments: targets.map(\.name)) func wideValuesRoundToTheOthers(_ name: String) throws {
        var layout = try #require(LayoutRegistry.target(named: name)).layout
        if let whole = layout as? any WholeRangeLayout { layout = whole.spanning(BFloat16(rounding: 10).bits) }
        guard let wide = layout as? any WideLayout else {
            // Powers of two and pairs of codes have BF16 values.
            #expect(name.contains("mx"), "\(name)")
            return
        }
        var random = SeededGenerator(11)
        var exceeded = false
        for shape in Self.shapes(layout, &random) {
            let stored = try Self.encode(layout, Self.values(shape.count, &random), 0..<shape.rows, shape)
            let narrow = Self.decode(layout, stored, 0..<shape.rows, shape)
            for rows in Self.tiles(layout, shape, &random) {
                var floats = [Float](repeating: .nan, count: rows.count * shape.columns)
                withStoredTile(layout, shape, stored, rows) { parts in
                    floats.withUnsafeMutableBufferPointer { wide.decodeFloats(parts, rows: rows, shape: shape, into: $0) }
                }
                let start = rows.lowerBound * shape.columns
                #expect(floats.map { BFloat16(rounding: $0).bits } == Array(narrow[start..<start + floats.count]), "\(name), \(shape)")
                exceeded = exceeded || floats.contains { $0.bitPattern & 0xFFFF != 0 }
            }
        }
        #expect(!exceeded || wide.exceedsBF16, "\(name)")
    }

    private static func encode(_ layout: any WeightLayout, _ values: [UInt16], _ rows: Range<Int>, _ shape: MatrixShape) throws -> [[UInt8]] {
        let sizes = layout.parts(of: shape).map { $0.runs(of: rows, in: shape).byteCount }
        let buffers = try sizes.map { try AlignedBuffer(byteCount: $0) }
        return try withExtendedLifetime(buffers) {
            let slices = zip(buffers, sizes).map { $0.slice(0..<$1) }
            try values.withUnsafeBufferPointer { try layout.encode($0, rows: rows, shape: shape, into: slices) }
            return slices.map { Array($0) }
        }
    }

    private static func decode(_ layout: any WeightLayout, _ parts: [[UInt8]], _ rows: Range<Int>, _ shape: MatrixShape) -> [UInt16] {
        var result = [UInt16](repeating: 0, count: rows.count * shape.columns)
        let buffers = parts.map { bytes -> UnsafeMutableRawBufferPointer in
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 64)
            buffer.copyBytes(from: bytes)
            return UnsafeMutableRawBufferPointer(rebasing: buffer[..<bytes.count])
        }
        result.withUnsafeMutableBufferPointer { target in
            layout.decode(buffers.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: shape, into: target)
        }
        for buffer in buffers { buffer.baseAddress?.deallocate() }
        return result
    }

    /// What is written under a layout's name is recognised as that layout, with the shape that it has.
    @Test(
        arguments:  // Blocks are for gpt-oss's stacks: GptOssTests.
            LayoutRegistry.targets.filter { $0.dialect.container == nil && $0.name != "mxfp4-blocks" }.map(\.name)) func whatIsWrittenIsRecognised(
            _ name: String
        ) throws
    {
        let target = try #require(LayoutRegistry.target(named: name))
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(4)
        let modules = ["model.layers.0.mlp.experts.0.up_proj", "model.layers.0.mlp.experts.0.down_proj"]
        for (module, shape) in zip(modules, [[256, 512], [512, 256]]) { builder.addBF16(module + ".weight", shape, scale: 1, &random) }
        builder.config["model_type"] = .string("deepseek_v3")
        builder.config["n_routed_experts"] = .int(1)
        try builder.write(to: folder.file("source"))
        try convert(folder.file("source"), folder.file("out"), to: name)
        let output = try Checkpoint(opening: folder.file("out"))
        for (module, shape) in zip(modules, [[256, 512], [512, 256]]) {
            let weight = try #require(output.weights.first { $0.name == module + ".weight" }, "\(name): \(output.weights.map(\.name))")
            #expect(weight.layoutName == target.layout.name && weight.dimensions == shape, "\(name): \(weight.layoutName)")
            #expect(weight.parts == target.layout.parts(of: weight.shape), "\(name)")
        }
    }
}
