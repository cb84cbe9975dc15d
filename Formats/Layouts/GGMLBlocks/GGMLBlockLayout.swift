import CKernels
import Tensors

/// A layout whose encoder can weigh the errors of columns (llama.cpp's importance matrix) beside its own rule.
package protocol ImportanceWeightedLayout: WideTarget {
    /// Encodes a tile as the peer does.
    /// - Parameter importance: how much the error of each column counts; nil for the peer's rule without.
    func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault)
}

/// ggml's blocks: 32, 64 or 256 neighbours of a row with the scales that they share, in one stored tensor.
///
/// Source: ggml-org/llama.cpp:ggml/src/ggml-quants.c. The bytes are those of `ggml_quantize_chunk`.
package struct GGMLBlockLayout: NumberLayout, ImportanceWeightedLayout, Equatable {
    package let type: ScalarType
    private let codec: GGMLCodec
    private let block: (values: Int, bytes: Int)

    /// Nil for a type that is no block.
    package init?(_ type: ScalarType) {
        guard let block = type.block, let codec = GGMLCodec(type) else { return nil }
        self.type = type
        self.block = block
        self.codec = codec
    }

    package static func == (a: Self, b: Self) -> Bool { a.type == b.type }

    package var name: String { type.rawValue }

    package func groupColumns(of columns: Int) -> Int { block.values }

    package func parts(of shape: MatrixShape) -> [WeightPart] { [WeightPart("weight", type, [shape.rows, shape.columns])] }

    package func obstacle(to shape: MatrixShape) -> String? {
        if shape.columns % block.values != 0 { return "\(shape.columns) columns are not a multiple of \(name)'s blocks of \(block.values)" }
        return codec.encode == nil ? "\(name) is read and not written here" : nil
    }

    package func fault(in part: WeightPart, _ bytes: UnsafeRawBufferPointer) -> StoredFault? { nil }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let target = values.baseAddress else { return }
        // As many blocks at once as stay in the first-level cache.
        let step = max(1, 2048 / block.values)
        withUnsafeTemporaryAllocation(of: Float.self, capacity: step * block.values) { floats in
            guard let floats = floats.baseAddress else { return }
            decode(parts[0], count: rows.count * shape.columns / block.values, step: step) { start, codes, blocks in
                codec.decode(KernelLevel.active.rawValue, codes, floats, blocks)
                ck_f32_to_bf16(floats, target + start, blocks * block.values)
            }
        }
    }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        guard let target = target.baseAddress else { return }
        let count = rows.count * shape.columns / block.values
        decode(parts[0], count: count, step: max(1, count)) { start, codes, blocks in
            codec.decode(KernelLevel.active.rawValue, codes, target + start, blocks)
        }
    }

    /// Calls `body` with runs of `step` blocks, and the place of their first value.
    private func decode(
        _ bytes: UnsafeRawBufferPointer, count: Int, step: Int, _ body: (_ start: Int, _ codes: UnsafePointer<UInt8>, _ blocks: Int) -> Void
    ) {
        guard let source = bytes.scalars(UInt8.self).baseAddress else { return }
        for start in stride(from: 0, to: count, by: step) {
            body(start * block.values, source + start * block.bytes, min(step, count - start))
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) { try encode(values, rows: rows, shape: shape, importance: nil, into: parts) }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress, shape.columns > 0 else { return }
        var fault: EncodingFault?
        withUnsafeTemporaryAllocation(of: Float.self, capacity: shape.columns) { floats in
            guard let floats = floats.baseAddress else { return }
            fault = encode(rows, shape, importance, into: parts) { row in
                ck_bf16_to_f32(source + row * shape.columns, floats, shape.columns)
                return UnsafePointer(floats)
            }
        }
        if let fault { throw fault }
    }

    package func encode(
        floats: UnsafeBufferPointer<Float>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = floats.baseAddress, shape.columns > 0 else { return }
        if let fault = encode(rows, shape, importance, into: parts, values: { source + $0 * shape.columns }) { throw fault }
    }

    /// Encodes row after row.
    private func encode(
        _ rows: Range<Int>, _ shape: MatrixShape, _ importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer],
        values: (_ row: Int) -> UnsafePointer<Float>
    ) -> EncodingFault? {
        guard let encode = codec.encode else { return .readOnly }
        guard let target = parts[0].scalars(UInt8.self).baseAddress else { return nil }
        let rowBytes = shape.columns / block.values * block.bytes
        for row in 0..<rows.count {
            let floats = values(row)
            guard DenseLayout.areFinite(UnsafeBufferPointer(start: floats, count: shape.columns)) else {
                return .notFinite(row: rows.lowerBound + row)
            }
            importance.withPointer {
                encode(KernelLevel.active.rawValue, floats, $0, target + row * rowBytes, 1, shape.columns)
            }
        }
        return nil
    }
}
