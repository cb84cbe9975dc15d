import CKernels
import Checkpoints
import Formats
import Runtime
import Tensors

/// A checkpoint as the forward pass sees it: products with weights that are read, decoded and dropped tile by tile.
package struct ModelWeights: Sendable {
    package let checkpoint: Checkpoint
    let workers: Int
    /// How many threads share the work.
    package var workerCount: Int { workers }
    let precision: Precision
    private let places: [String: Int]
    /// What is used in place of the checkpoint's weights.
    let overlay: WeightOverlay?

    package init(_ checkpoint: Checkpoint, workers: Int, precision: Precision = .f32, overlay: WeightOverlay? = nil) throws {
        try checkpoint.requireReadable()
        self.overlay = overlay
        self.precision = precision
        self.checkpoint = checkpoint
        self.workers = workers
        places = Dictionary(uniqueKeysWithValues: checkpoint.weights.indices.map { (checkpoint.weights[$0].name, $0) })
    }

    package func contains(_ name: String) -> Bool { places[name] != nil }

    /// The dimensions of a weight; nil if there is none of this name.
    func dimensions(_ name: String) -> [Int]? { places[name].map { checkpoint.weights[$0].dimensions } }

    func weight(_ name: String, _ shape: [Int]) throws -> Weight {
        guard let place = places[name] else { throw ReferenceFailure.missingWeight(name) }
        var weight = checkpoint.weights[place]
        if let entry = overlay?[name] { weight.layout = entry.layout }
        guard weight.dimensions == shape else { throw ReferenceFailure.shape(weight: name, found: weight.dimensions, expected: shape) }
        guard weight.layout != nil else { throw ReferenceFailure.notAWeight(name) }
        return weight
    }

    /// A whole small weight (norms, biases) as F32.
    func vector(_ name: String, count: Int) throws -> [Float] {
        let weight = try weight(name, [count])
        let values = try Activations(rows: 1, columns: count)
        let buffer = try AlignedBuffer(byteCount: Self.scratchBytes(weight, 0..<count))
        try decode(weight, 0..<count, buffer, floats: values.base)
        return values.values
    }

    /// Rows of an embedding, one for each of `indices`.
    func rows(_ name: String, _ shape: [Int], _ indices: [Int]) throws -> Activations {
        let weight = try weight(name, shape)
        let result = try Activations(rows: indices.count, columns: shape[1])
        let step = weight.layout?.rowAlignment ?? 1
        let buffer = try AlignedBuffer(byteCount: Self.scratchBytes(weight, 0..<min(step, shape[0])))
        let tile = try Activations(rows: step, columns: shape[1])
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
        let count = rows.count * weight.shape.columns
        let (values, slices) = try read(weight, rows, buffer)
        let stored = slices.map { UnsafeRawBufferPointer($0) }
        if let dense = weight.layout as? any NumberLayout, dense.type != .bf16 {
            dense.decodeFloats(stored, rows: rows, shape: weight.shape, into: values.assumingMemoryBound(to: Float.self))
            body(values.baseAddress!, true)
        } else {
            let target = UnsafeMutableBufferPointer(rebasing: values.assumingMemoryBound(to: UInt16.self)[..<count])
            weight.layout?.decode(stored, rows: rows, shape: weight.shape, into: target)
            body(values.baseAddress!, false)
        }
    }

    /// Reads the stored parts of some rows; the first part of `buffer` is room for their values as F32.
    private func read(
        _ weight: Weight, _ rows: Range<Int>, _ buffer: AlignedBuffer
    ) throws -> (values: UnsafeMutableRawBufferPointer, parts: [UnsafeMutableRawBufferPointer]) {
        let parts = PartLayout(parts: weight.parts, shape: weight.shape)
        let valueBytes = PartLayout.aligned(rows.count * weight.shape.columns * 4)
        let slices = parts.slices(rows, in: buffer.slice(valueBytes..<(valueBytes + parts.byteCount(rows))))
        if let entry = overlay?[weight.name] {
            try entry.read(rows, weight.shape, into: slices)
        } else {
            try checkpoint.read(weight, parts: parts.parts, rows: rows, into: slices)
        }
        return (buffer.slice(0..<valueBytes), slices)
    }

    // MARK: Work on rows

    /// Calls `body` for runs of rows in parallel; each element is written by one call only.
    func forRows(_ count: Int, _ body: @escaping @Sendable (Range<Int>) -> Void) throws {
        let step = max(32, ceilingDivide(count, workers * 4))
        let runs = ceilingDivide(count, step)
        guard runs > 1 else { return body(0..<count) }
        try ParallelLoop.run(count: runs, workers: workers, state: {}) { index, _ in body(index * step..<min(count, (index + 1) * step)) }
    }

    /// Rows of target from `first` on += other, rounded as the precision asks.
    func add(_ other: Activations, to target: Activations, at first: Int = 0) throws {
        let precision = precision
        try forRows(other.rows) { rows in
            let (a, b) = (target[first + rows.lowerBound], other[rows.lowerBound])
            for index in 0..<rows.count * target.columns { a[index] += b[index] }
            precision.round(a, rows.count * target.columns)
        }
    }

    /// Every row of target += a bias, rounded as the precision asks.
    func addBias(_ name: String, to target: Activations) throws {
        let bias = try vector(name, count: target.columns)
        let precision = precision
        try forRows(target.rows) { rows in
            for row in rows {
                let values = target[row]
                for index in 0..<target.columns { values[index] += bias[index] }
                precision.round(values, target.columns)
            }
        }
    }

    /// The same to what stays F32 in every precision: the router's logits.
    func addExactBias(_ name: String, to target: Activations) throws {
        try ModelWeights(checkpoint, workers: workers, overlay: overlay).addBias(name, to: target)
    }

    /// RMSNorm of the first `columns` of some rows, by default of all.
    func normalise(_ x: Activations, rows part: Range<Int>? = nil, by name: String, columns: Int? = nil, epsilon: Double) throws -> Activations {
        let count = columns ?? x.columns
        let norm = RMSNorm(weight: try vector(name, count: count), epsilon: epsilon, precision: precision)
        let part = part ?? 0..<x.rows
        let result = try Activations(unfilled: part.count, columns: count)
        try forRows(part.count) { rows in
            for row in rows { norm.apply(x[part.lowerBound + row], to: result[row]) }
        }
        return result
    }

    /// LayerNorm of every row in place: (x - mean) / sqrt(variance + eps) * w + b, sums in F64 (arXiv 1607.06450).
    func centre(_ x: Activations, by module: String, epsilon: Double) throws {
        let (weight, bias) = (try vector(module + ".weight", count: x.columns), try vector(module + ".bias", count: x.columns))
        let precision = precision, count = x.columns
        try forRows(x.rows) { rows in
            for row in rows {
                let values = x[row]
                let mean = (0..<count).reduce(0.0) { $0 + Double(values[$1]) } / Double(count)
                let variance = (0..<count).reduce(0.0) { $0 + (Double(values[$1]) - mean) * (Double(values[$1]) - mean) } / Double(count)
                let factor = 1 / (variance + epsilon).squareRoot()
                for index in 0..<count { values[index] = Float((Double(values[index]) - mean) * factor) * weight[index] + bias[index] }
                precision.round(values, count)
            }
        }
    }

    /// RMSNorm of every head in place: each `size` values of a row by the same weights.
    func normaliseHeads(_ x: Activations, size: Int, by name: String, epsilon: Double) throws {
        let norm = RMSNorm(weight: try vector(name, count: size), epsilon: epsilon, precision: precision)
        try forRows(x.rows) { rows in
            for row in rows {
                for start in stride(from: 0, to: x.columns, by: size) { norm.apply(x[row] + start, to: x[row] + start) }
            }
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
    private static let depthBlock = 256

    /// Carries out products, all tiles of all of them in parallel. The bits of a result depend on input and weights only.
    func run(_ products: [Product]) throws {
        var tiles: [(product: Int, rows: Range<Int>, tokens: Range<Int>)] = []
        var scratch = 0
        for (index, product) in products.enumerated() where product.input.rows > 0 {
            let unit = leastCommonMultiple(product.weight.layout?.rowAlignment ?? 1, Int(CK_PANEL))
            // Many tokens share a tile, in stretches of one length, so that every worker has as much to do.
            let block = Int(CK_TOKEN_BLOCK), tokens = product.input.rows
            let stretch = ceilingDivide(ceilingDivide(tokens, ceilingDivide(tokens, 40 * block)), block) * block
            // A tile has half a million values at most, and there are twice as many tiles as workers if there can be.
            let tiled = ceilingDivide(2 * workers, ceilingDivide(tokens, stretch))
            let fitting = min((1 << 19) / max(1, product.weight.shape.columns * unit), ceilingDivide(product.weight.shape.rows, tiled * unit))
            let preferred = min(product.weight.layout?.preferredRows ?? 1, 512) / unit
            for rows in TileSequence(of: product.weight.shape, step: unit * max(1, fitting, preferred)) {
                for tokens in TileSequence(rows: tokens, step: stretch) { tiles.append((index, rows, tokens)) }
                scratch = max(scratch, Self.scratchBytes(product.weight, rows))
            }
        }
        let work = tiles
        let bytes = scratch
        let packed = try packedInputs(products)
        try ParallelLoop.run(count: work.count, workers: workers) {
            Scratch(stored: try AlignedBuffer(byteCount: bytes), panels: try AlignedBuffer(byteCount: 0))
        } body: { index, scratch in
            let product = products[work[index].product]
            try multiply(product, packed[ObjectIdentifier(product.input)], work[index].rows, work[index].tokens, scratch)
        }
        guard precision == .bf16 else { return }
        let precision = precision
        for product in products {
            try forRows(product.output.rows) { precision.round(product.output[$0.lowerBound], $0.count * product.output.columns) }
        }
    }

    /// The inputs in blocks of tokens, [block][channel][token of the block], once for all tiles of all products that read them.
    private func packedInputs(_ products: [Product]) throws -> [ObjectIdentifier: AlignedBuffer] {
        let block = Int(CK_TOKEN_BLOCK)
        var packed: [ObjectIdentifier: AlignedBuffer] = [:]
        var parts: [(input: Activations, block: Int, target: AlignedBuffer)] = []
        for product in products where product.inputScales == nil && packed[ObjectIdentifier(product.input)] == nil {
            let blocks = ceilingDivide(product.input.rows, block)
            let target = try AlignedBuffer(byteCount: blocks * block * product.input.columns * 4)
            packed[ObjectIdentifier(product.input)] = target
            parts += (0..<blocks).map { (product.input, $0, target) }
        }
        let work = parts
        try ParallelLoop.run(count: work.count, workers: workers, state: {}) { index, _ in
            let (input, number, target) = work[index]
            target.withMemory(of: Float.self) {
                ck_pack_tokens(
                    KernelLevel.active.rawValue, input[number * block], input.columns, min(block, input.rows - number * block), input.columns,
                    $0 + number * block * input.columns)
            }
        }
        return packed
    }

    /// Several products of one input.
    func linear(_ names: [(name: String, outputs: Int)], _ input: Activations) throws -> [Activations] {
        let products = try names.map { try product($0.name, input, outputs: $0.outputs) }
        try run(products)
        return products.map(\.output)
    }

    func linear(_ name: String, _ input: Activations, outputs: Int) throws -> Activations {
        try linear([(name, outputs)], input)[0]
    }

    func product(_ name: String, _ input: Activations, outputs: Int) throws -> Product {
        let weight = try weight(name, [outputs, input.columns])
        // Products of codes are added up in the output; all others begin it.
        let isAdded = precision == .fp8 || input.columns == 0
        let output = try isAdded ? Activations(rows: input.rows, columns: outputs) : Activations(unfilled: input.rows, columns: outputs)
        var product = Product(weight: weight, input: input, output: output)
        if precision == .fp8, let layout = weight.layout as? any ScaledBlockLayout {
            guard layout.blockColumns == 128 else { throw ReferenceFailure.activations(weight: name, columns: layout.blockColumns) }
            (product.input, product.inputScales) = try input.quantized()
        }
        return product
    }

    /// A product whose result stays F32 in every precision: the router's logits.
    func exactLinear(_ name: String, _ input: Activations, outputs: Int) throws -> Activations {
        let product = Product(
            weight: try weight(name, [outputs, input.columns]), input: input, output: try Activations(rows: input.rows, columns: outputs))
        try ModelWeights(checkpoint, workers: workers, overlay: overlay).run([product])
        return product.output
    }

    /// A product of numbers whose input nobody packed: a fault of this file, which ends the run and not with zeros.
    private struct UnpackedInput: Error {}

    private final class Scratch {
        let stored: AlignedBuffer
        var panels: AlignedBuffer

        init(stored: AlignedBuffer, panels: AlignedBuffer) {
            self.stored = stored
            self.panels = panels
        }
    }

    private func multiply(
        _ product: Product, _ input: AlignedBuffer?, _ rows: Range<Int>, _ tokens: Range<Int>, _ scratch: Scratch
    ) throws {
        let depth = product.weight.shape.columns
        let (width, block) = (Int(CK_PANEL), Int(CK_TOKEN_BLOCK))
        let panels = ceilingDivide(rows.count, width)
        let panelFloats = Self.depthBlock * width
        let needed = (panels * panelFloats + Self.depthBlock * block) * 4
        if scratch.panels.bytes.count < needed { scratch.panels = try AlignedBuffer(byteCount: needed) }
        guard let packed = scratch.panels.bytes.assumingMemoryBound(to: Float.self).baseAddress else { return }
        let level = KernelLevel.active.rawValue
        if let scales = product.inputScales {
            return try multiplyCodes(product, scales, rows, tokens, scratch, packed, packed + panels * panelFloats)
        }
        guard let input else { throw UnpackedInput() }
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
                input.withMemory(of: Float.self) { blocks in
                    for token in stride(from: tokens.lowerBound, to: tokens.upperBound, by: block) {
                        ck_matrix_product(
                            level, blocks + token * depth + start * block, min(block, tokens.upperBound - token), packed, panelFloats, stretch,
                            product.output[token] + rows.lowerBound, product.output.columns, rows.count, start > 0 ? 1 : 0)
                    }
                }
            }
        }
    }

    /// FP8 by FP8: the products of each 128 channels are summed in F32, then scaled and added (arXiv 2412.19437, section 3.3).
    private func multiplyCodes(
        _ product: Product, _ inputScales: Activations, _ rows: Range<Int>, _ tokens: Range<Int>, _ scratch: Scratch,
        _ packed: UnsafeMutablePointer<Float>,
        _ packedTokens: UnsafeMutablePointer<Float>
    ) throws {
        guard let layout = product.weight.layout as? any ScaledBlockLayout else { return }
        let depth = product.weight.shape.columns
        let width = Int(CK_PANEL)
        let level = KernelLevel.active.rawValue
        let blocks = ceilingDivide(depth, 128)
        let sums = try Activations(rows: Int(CK_TOKEN_BLOCK), columns: width)
        let scales = try Activations(rows: 1, columns: width)
        try withCodes(product.weight, layout, rows, scratch.stored) { codes, scaleOf in
            for first in stride(from: 0, to: rows.count, by: width) {
                let outputs = min(width, rows.count - first)
                for block in 0..<blocks {
                    let stretch = min(128, depth - block * 128)
                    ck_pack_bf16_panel(level, codes + first * depth + block * 128, depth, outputs, stretch, packed)
                    for n in 0..<outputs {
                        scales.base[n] = scaleOf((rows.lowerBound + first + n) / layout.blockRows - rows.lowerBound / layout.blockRows, block)
                    }
                    for token in stride(from: tokens.lowerBound, to: tokens.upperBound, by: Int(CK_TOKEN_BLOCK)) {
                        let count = min(Int(CK_TOKEN_BLOCK), tokens.upperBound - token)
                        ck_pack_tokens(level, product.input[token] + block * 128, depth, count, stretch, packedTokens)
                        ck_matrix_product(level, packedTokens, count, packed, 0, stretch, sums.base, width, width, 0)
                        ck_add_scaled(
                            sums.base, count, inputScales[token] + block, inputScales.columns, scales.base,
                            product.output[token] + rows.lowerBound + first, product.output.columns, outputs)
                    }
                }
            }
        }
    }

    /// The E4M3 codes of some rows as BF16 values (each E4M3 value is one), and the scale of each (row block, column block) of the tile.
    private func withCodes(
        _ weight: Weight, _ layout: any ScaledBlockLayout, _ rows: Range<Int>, _ buffer: AlignedBuffer,
        _ body: (UnsafePointer<UInt16>, (Int, Int) -> Float) -> Void
    ) throws {
        let count = rows.count * weight.shape.columns
        let (space, slices) = try read(weight, rows, buffer)
        let codes = slices[0].assumingMemoryBound(to: UInt8.self)
        let values = space.assumingMemoryBound(to: UInt16.self)
        for index in 0..<count { values[index] = BFloat16(rounding: Float8E4M3(bits: codes[index]).value).bits }
        let across = ceilingDivide(weight.shape.columns, layout.blockColumns)
        let scales = layout.scaleType.scales(in: UnsafeRawBufferPointer(slices[1]))
        body(values.baseAddress!) { row, column in scales[row * across + column] }
    }
}
