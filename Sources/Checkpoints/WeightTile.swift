import Formats
import Runtime
import Tensors

/// The stored bytes of a run of rows of a weight, laid out one part after another in working memory.
package struct PartLayout: Sendable {
    package var parts: [WeightPart]
    package var shape: MatrixShape

    package init(parts: [WeightPart], shape: MatrixShape) {
        self.parts = parts
        self.shape = shape
    }

    /// Working memory is cut at multiples of a cache line, which suits every scalar type.
    package static func aligned(_ size: Int) -> Int { (size + 63) & ~63 }

    /// Bytes of working memory for `rows`.
    package func byteCount(_ rows: Range<Int>) -> Int {
        parts.reduce(0) { $0 + Self.aligned($1.runs(of: rows, in: shape).byteCount) }
    }

    /// The parts of `rows` inside `buffer`, which has at least ``byteCount(_:)`` bytes.
    package func slices(_ rows: Range<Int>, in buffer: UnsafeMutableRawBufferPointer) -> [UnsafeMutableRawBufferPointer] {
        var start = 0
        return parts.map { part in
            let size = part.runs(of: rows, in: shape).byteCount
            defer { start += Self.aligned(size) }
            return UnsafeMutableRawBufferPointer(rebasing: buffer[start..<(start + size)])
        }
    }
}

extension Checkpoint {
    /// Reads part of a stored tensor completely.
    package func read(_ tensor: StoredTensor, _ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        try read(tensor, ByteRuns(range), into: buffer)
    }

    package func read(_ tensor: StoredTensor, _ runs: ByteRuns, into buffer: UnsafeMutableRawBufferPointer) throws {
        let file = files[tensor.file]
        let count = try file.read(into: buffer, runs, at: tensor.offset)
        guard count == runs.byteCount else {
            let offset = tensor.offset + runs.start + (runs.length == 0 ? 0 : count / runs.length * runs.stride + count % runs.length)
            throw ShortRead(path: file.path, tensor: tensor.name, offset: offset)
        }
    }

    /// Reads the stored parts of some rows into `slices`, made by ``PartLayout/slices(_:in:)``.
    package func read(_ weight: Weight, parts: [WeightPart], rows: Range<Int>, into slices: [UnsafeMutableRawBufferPointer]) throws {
        for (index, part) in parts.enumerated() {
            try read(weight.stored[index], part.runs(of: rows, in: weight.shape), into: slices[index])
        }
    }
}

extension Checkpoint {
    /// The BF16 values of some rows, which are cut at the layout's row alignment.
    /// - Throws: ``CheckpointFailure/contradiction(tensor:file:reason:)`` if the weight is bytes that no layout decodes.
    package func values(of weight: Weight, rows: Range<Int>) throws -> [UInt16] {
        try decoded(weight, rows) { $0.decode($1, rows: rows, shape: weight.shape, into: $2) }
    }

    /// The values of some rows as F32, as they are where they are wider than BF16.
    package func floats(of weight: Weight, rows: Range<Int>) throws -> [Float] {
        try decoded(weight, rows) { $0.decodeWidest($1, rows: rows, shape: weight.shape, into: $2) }
    }

    private func decoded<Value>(
        _ weight: Weight, _ rows: Range<Int>,
        _ decode: (any WeightLayout, [UnsafeRawBufferPointer], UnsafeMutableBufferPointer<Value>) -> Void
    ) throws -> [Value] {
        guard let layout = weight.layout else {
            throw CheckpointFailure.contradiction(tensor: weight.name, file: fileName(of: weight), reason: "holds no values that a layout defines")
        }
        let parts = PartLayout(parts: weight.parts, shape: weight.shape)
        let buffer = try AlignedBuffer(byteCount: parts.byteCount(rows))
        let slices = parts.slices(rows, in: buffer.bytes)
        try read(weight, parts: parts.parts, rows: rows, into: slices)
        return withExtendedLifetime(buffer) {
            [Value](unsafeUninitializedCapacity: rows.count * weight.shape.columns) { values, count in
                count = rows.count * weight.shape.columns
                decode(layout, slices.map { UnsafeRawBufferPointer($0) }, UnsafeMutableBufferPointer(rebasing: values[..<count]))
            }
        }
    }
}
