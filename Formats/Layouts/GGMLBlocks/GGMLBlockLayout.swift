import CKernels
import Tensors

/// A layout whose encoder can weigh the errors of columns (llama.cpp's importance matrix) beside its own rule.
package protocol ImportanceWeightedLayout: WeightLayout {
    /// Encodes a tile as the peer does.
    /// - Parameter importance: how much the error of each column counts; nil for the peer's rule without.
    func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault)
}

/// ggml's blocks: 32, 64 or 256 neighbours of a row with the scales that they share, in one stored tensor.
///
/// Source: ggml-org/llama.cpp:ggml/src/ggml-quants.c. The bytes are those of `ggml_quantize_chunk`.
package struct GGMLBlockLayout: ImportanceWeightedLayout, Equatable {
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
        guard let source = parts[0].scalars(UInt8.self).baseAddress, let target = values.baseAddress else { return }
        let count = rows.count * shape.columns / block.values
        // As many blocks at once as stay in the first-level cache.
        let step = max(1, 2048 / block.values)
        withUnsafeTemporaryAllocation(of: Float.self, capacity: step * block.values) { floats in
            guard let floats = floats.baseAddress else { return }
            for start in stride(from: 0, to: count, by: step) {
                let blocks = min(step, count - start)
                codec.decode(KernelLevel.active.rawValue, source + start * block.bytes, floats, blocks)
                ck_f32_to_bf16(floats, target + start * block.values, blocks * block.values)
            }
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) { try encode(values, rows: rows, shape: shape, importance: nil, into: parts) }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let encode = codec.encode else { throw .readOnly }
        guard let source = values.baseAddress, let target = parts[0].scalars(UInt8.self).baseAddress, shape.columns > 0 else { return }
        let rowBytes = shape.columns / block.values * block.bytes
        var bad: Int?
        withUnsafeTemporaryAllocation(of: Float.self, capacity: shape.columns) { floats in
            guard let floats = floats.baseAddress else { return }
            for row in 0..<rows.count {
                let start = source + row * shape.columns
                if ck_bf16_count_nonfinite(start, shape.columns) > 0 {
                    bad = row
                    return
                }
                ck_bf16_to_f32(start, floats, shape.columns)
                if let importance {
                    importance.withUnsafeBufferPointer {
                        encode(KernelLevel.active.rawValue, floats, $0.baseAddress, target + row * rowBytes, 1, shape.columns)
                    }
                } else {
                    encode(KernelLevel.active.rawValue, floats, nil, target + row * rowBytes, 1, shape.columns)
                }
            }
        }
        if let bad { throw .notFinite(row: rows.lowerBound + bad) }
    }
}
