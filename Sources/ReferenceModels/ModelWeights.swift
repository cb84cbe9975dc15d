import CKernels
import Checkpoints
import Conversion
import Formats
import Tensors

/// A checkpoint as the forward pass sees it: products with weights that are read, decoded and dropped tile by tile.
public struct ModelWeights: Sendable {
    public let checkpoint: Checkpoint
    let workers: Int
    let precision: Precision
    private let places: [String: Int]

    public init(_ checkpoint: Checkpoint, workers: Int, precision: Precision = .f32) throws {
        try checkpoint.requirePairedScales()
        self.precision = precision
        self.checkpoint = checkpoint
        self.workers = workers
        places = Dictionary(uniqueKeysWithValues: checkpoint.weights.indices.map { (checkpoint.weights[$0].name, $0) })
    }

    public func contains(_ name: String) -> Bool { places[name] != nil }

    func weight(_ name: String, _ shape: [Int]) throws -> Weight {
        guard let place = places[name] else { throw ReferenceFailure.missingWeight(name) }
        let weight = checkpoint.weights[place]
        guard weight.dimensions == shape else { throw ReferenceFailure.shape(weight: name, found: weight.dimensions, expected: shape) }
        guard weight.layout != nil else { throw ReferenceFailure.notAWeight(name) }
        return weight
    }

    /// A whole small weight (norms, biases) as F32.
    func vector(_ name: String, count: Int) throws -> [Float] {
        let weight = try weight(name, [count])
        let values = Activations(rows: 1, columns: count)
        let buffer = AlignedBuffer(byteCount: Self.scratchBytes(weight, 0..<count))
        try decode(weight, 0..<count, buffer, floats: values.base)
        return values.values
    }

    /// Rows of an embedding, one for each of `indices`.
    func rows(_ name: String, _ shape: [Int], _ indices: [Int]) throws -> Activations {
        let weight = try weight(name, shape)
        let result = Activations(rows: indices.count, columns: shape[1])
        let step = weight.layout?.rowAlignment ?? 1
        let buffer = AlignedBuffer(byteCount: Self.scratchBytes(weight, 0..<min(step, shape[0])))
        let tile = Activations(rows: step, columns: shape[1])
        for (row, index) in indices.enumerated() {
            let start = index / step * step
            try decode(weight, start..<min(start + step, shape[0]), buffer, floats: tile.base)
            result[row].update(from: tile[index - start], count: shape[1])
        }
        return result
    }

    private static func scratchBytes(_ weight: Weight, _ rows: Range<Int>) -> Int {
        PartLayout(parts: weight.parts, shape: weight.shape).byteCount(rows) + PartLayout.aligned(rows.count * weight.shape.columns * 4)
    }

    /// Decodes rows as F32. F32 and F16 weights are exact, all others have the BF16 values that their layout defines.
    private func decode(_ weight: Weight, _ rows: Range<Int>, _ buffer: AlignedBuffer, floats: UnsafeMutablePointer<Float>) throws {
        let count = rows.count * weight.shape.columns
        try withDecoded(weight, rows, buffer) { values, isWide in
            if isWide {
                floats.update(from: values.assumingMemoryBound(to: Float.self), count: count)
            } else {
                ck_bf16_to_f32(values.assumingMemoryBound(to: UInt16.self), floats, count)
            }
        }
    }

    /// Calls `body` with the rows' values, F32 if the weight is a wide dense one, otherwise BF16.
    private func withDecoded(_ weight: Weight, _ rows: Range<Int>, _ buffer: AlignedBuffer, _ body: (UnsafeMutableRawPointer, Bool) -> Void) throws {
        let parts = PartLayout(parts: weight.parts, shape: weight.shape)
        let count = rows.count * weight.shape.columns
        let valueBytes = PartLayout.aligned(count * 4)
        let slices = parts.slices(rows, in: buffer.slice(valueBytes..<(valueBytes + parts.byteCount(rows))))
        try checkpoint.read(weight, parts: parts.parts, rows: rows, into: slices)
        let values = buffer.slice(0..<valueBytes)
        let stored = slices.map { UnsafeRawBufferPointer($0) }
        if let dense = weight.layout as? DenseLayout, dense.type != .bf16 {
            dense.decodeFloats(stored[0], count: count, into: values.assumingMemoryBound(to: Float.self))
            body(values.baseAddress!, true)
        } else {
            let target = UnsafeMutableBufferPointer(rebasing: values.assumingMemoryBound(to: UInt16.self)[..<count])
            weight.layout?.decode(stored, rows: rows, shape: weight.shape, into: target)
            body(values.baseAddress!, false)
        }
    }

    // MARK: Products

    /// y = x W^T for some tokens: `output` is [tokens, out].
    struct Product: Sendable {
        var weight: Weight
        var input: Activations
        var output: Activations
        /// With FP8 activations: the scales of `input`'s tiles of 128 channels, [tokens, tiles].
        var inputScales: Activations?
    }

    /// Inputs wider than this are multiplied in stretches that stay in the caches; the sums go on where they stopped.
    private static let depthBlock = 512
    private static let tokenBlock = 96

    /// Carries out products, all tiles of all of them in parallel. The bits of a result depend on input and weights only.
    func run(_ products: [Product]) throws {
        var tiles: [(product: Int, rows: Range<Int>)] = []
        var scratch = 0
        for (index, product) in products.enumerated() where product.input.rows > 0 {
            let unit = leastCommonMultiple(product.weight.layout?.rowAlignment ?? 1, Int(CK_PANEL))
            // About a megabyte of values a tile, and several tiles for each worker.
            let fitting = max(1, (1 << 18) / max(1, product.weight.shape.columns * unit))
            for rows in TileSequence(rows: product.weight.shape.rows, step: unit * fitting) {
                tiles.append((index, rows))
                scratch = max(scratch, Self.scratchBytes(product.weight, rows))
            }
        }
        let work = tiles
        let bytes = scratch
        try ParallelLoop.run(count: work.count, workers: workers) {
            Scratch(stored: AlignedBuffer(byteCount: bytes), panels: AlignedBuffer(byteCount: 0))
        } body: { index, scratch in
            try multiply(products[work[index].product], work[index].rows, scratch)
        }
        for product in products { precision.round(product.output) }
    }

    func linear(_ name: String, _ input: Activations, outputs: Int) throws -> Activations {
        let product = try product(name, input, outputs: outputs)
        try run([product])
        return product.output
    }

    func product(_ name: String, _ input: Activations, outputs: Int) throws -> Product {
        let weight = try weight(name, [outputs, input.columns])
        var product = Product(weight: weight, input: input, output: Activations(rows: input.rows, columns: outputs))
        if precision == .fp8, let layout = weight.layout as? BlockScaledFP8Layout {
            guard layout.blockColumns == 128 else { throw ReferenceFailure.activations(weight: name, columns: layout.blockColumns) }
            (product.input, product.inputScales) = input.quantized()
        }
        return product
    }

    /// A product whose result stays F32 in every precision: the router's logits.
    func exactLinear(_ name: String, _ input: Activations, outputs: Int) throws -> Activations {
        let product = Product(
            weight: try weight(name, [outputs, input.columns]), input: input, output: Activations(rows: input.rows, columns: outputs))
        try ModelWeights(checkpoint, workers: workers).run([product])
        return product.output
    }

    private final class Scratch {
        let stored: AlignedBuffer
        var panels: AlignedBuffer

        init(stored: AlignedBuffer, panels: AlignedBuffer) {
            self.stored = stored
            self.panels = panels
        }
    }

    private func multiply(_ product: Product, _ rows: Range<Int>, _ scratch: Scratch) throws {
        let depth = product.weight.shape.columns
        let width = Int(CK_PANEL)
        let panels = ceilingDivide(rows.count, width)
        let panelFloats = Self.depthBlock * width
        if scratch.panels.bytes.count < panels * panelFloats * 4 { scratch.panels = AlignedBuffer(byteCount: panels * panelFloats * 4) }
        guard let packed = scratch.panels.bytes.assumingMemoryBound(to: Float.self).baseAddress else { return }
        let level = KernelLevel.active.rawValue
        if let scales = product.inputScales { return try multiplyCodes(product, scales, rows, scratch, packed) }
        try withDecoded(product.weight, rows, scratch.stored) { values, isWide in
            for start in stride(from: 0, to: depth, by: Self.depthBlock) {
                let stretch = min(Self.depthBlock, depth - start)
                for panel in 0..<panels {
                    let count = min(width, rows.count - panel * width)
                    let first = panel * width * depth + start
                    if isWide {
                        ck_pack_f32_panel(values.assumingMemoryBound(to: Float.self) + first, depth, count, stretch, packed + panel * panelFloats)
                    } else {
                        ck_pack_bf16_panel(
                            level, values.assumingMemoryBound(to: UInt16.self) + first, depth, count, stretch, packed + panel * panelFloats)
                    }
                }
                for token in stride(from: 0, to: product.input.rows, by: Self.tokenBlock) {
                    let tokens = min(Self.tokenBlock, product.input.rows - token)
                    for panel in 0..<panels {
                        ck_matrix_product(
                            level, product.input[token] + start, depth, tokens, packed + panel * panelFloats, stretch,
                            product.output[token] + rows.lowerBound + panel * width, product.output.columns, min(width, rows.count - panel * width))
                    }
                }
            }
        }
    }

    /// FP8 by FP8: the products of each 128 channels are summed in F32, then scaled and added (arXiv 2412.19437, section 3.3).
    private func multiplyCodes(
        _ product: Product, _ inputScales: Activations, _ rows: Range<Int>, _ scratch: Scratch, _ packed: UnsafeMutablePointer<Float>
    ) throws {
        guard let layout = product.weight.layout as? BlockScaledFP8Layout else { return }
        let depth = product.weight.shape.columns
        let width = Int(CK_PANEL)
        let level = KernelLevel.active.rawValue
        let blocks = ceilingDivide(depth, 128)
        let sums = Activations(rows: product.input.rows, columns: width)
        let scales = Activations(rows: 1, columns: width)
        try withCodes(product.weight, layout, rows, scratch.stored) { codes, scaleOf in
            for first in stride(from: 0, to: rows.count, by: width) {
                let count = min(width, rows.count - first)
                for block in 0..<blocks {
                    let stretch = min(128, depth - block * 128)
                    ck_pack_bf16_panel(level, codes + first * depth + block * 128, depth, count, stretch, packed)
                    for n in 0..<count {
                        scales.base[n] = scaleOf((rows.lowerBound + first + n) / layout.blockRows - rows.lowerBound / layout.blockRows, block)
                    }
                    ck_matrix_product(level, product.input[0] + block * 128, depth, product.input.rows, packed, stretch, sums.base, width, width)
                    ck_add_scaled(
                        sums.base, product.input.rows, inputScales.base + block, inputScales.columns, scales.base,
                        product.output.base + rows.lowerBound + first, product.output.columns, count)
                }
            }
        }
    }

    /// The E4M3 codes of some rows as BF16 values (each E4M3 value is one), and the scale of each (row block, column block) of the tile.
    private func withCodes(
        _ weight: Weight, _ layout: BlockScaledFP8Layout, _ rows: Range<Int>, _ buffer: AlignedBuffer,
        _ body: (UnsafePointer<UInt16>, (Int, Int) -> Float) -> Void
    ) throws {
        let parts = PartLayout(parts: weight.parts, shape: weight.shape)
        let count = rows.count * weight.shape.columns
        let valueBytes = PartLayout.aligned(count * 4)
        let slices = parts.slices(rows, in: buffer.slice(valueBytes..<(valueBytes + parts.byteCount(rows))))
        try checkpoint.read(weight, parts: parts.parts, rows: rows, into: slices)
        let codes = slices[0].assumingMemoryBound(to: UInt8.self)
        let values = buffer.slice(0..<valueBytes).assumingMemoryBound(to: UInt16.self)
        for index in 0..<count { values[index] = BFloat16(rounding: Float8E4M3(bits: codes[index]).value).bits }
        let across = ceilingDivide(weight.shape.columns, layout.blockColumns)
        let scales = Array(layout.scaleType.scales(in: UnsafeRawBufferPointer(slices[1])))
        body(values.baseAddress!) { row, column in scales[row * across + column] }
    }
}
