import CKernels
import Tensors

/// One number a value: BF16, F16, F32 or F64.
package struct DenseLayout: UncodedLayout, WideTarget {
    package let type: ScalarType

    package init(_ type: ScalarType) { self.type = type }

    package var name: String { type.rawValue.lowercased() }
    package var isDense: Bool { true }

    package func parts(of shape: MatrixShape) -> [WeightPart] { [WeightPart("weight", type, [shape.rows, shape.columns])] }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        let count = values.count
        guard count > 0, let target = values.baseAddress else { return }
        if type == .bf16 {
            UnsafeMutableRawBufferPointer(values).copyMemory(from: UnsafeRawBufferPointer(rebasing: parts[0][..<(count * 2)]))
            return
        }
        Self.inPieces(count) { start, piece in
            floats(parts[0], start, piece) { ck_f32_to_bf16($0, target + start, piece) }
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress else { return }
        if type == .bf16 {
            parts[0].copyMemory(from: UnsafeRawBufferPointer(values))
            return
        }
        var overflow = false
        Self.inPieces(values.count) { start, piece in
            withUnsafeTemporaryAllocation(of: Float.self, capacity: piece) { floats in
                ck_bf16_to_f32(source + start, floats.baseAddress, piece)
                overflow = store(UnsafeBufferPointer(floats), in: parts[0], at: start) || overflow
            }
        }
        if overflow { throw .overflowsF16(row: rows.lowerBound) }
    }

    package func encode(
        floats: UnsafeBufferPointer<Float>, rows: Range<Int>, shape: MatrixShape, importance: [Float]?, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard !floats.isEmpty else { return }
        if store(floats, in: parts[0], at: 0) { throw .overflowsF16(row: rows.lowerBound) }
    }

    package func convert(
        from source: any UncodedLayout, _ bytes: UnsafeRawBufferPointer, count: Int, rows: Range<Int>, into target: UnsafeMutableRawBufferPointer
    ) throws(EncodingFault) {
        var overflow = false
        Self.inPieces(count) { start, piece in
            withUnsafeTemporaryAllocation(of: Float.self, capacity: piece) { floats in
                let width = source.type.bitWidth / 8
                source.decodeFloats(UnsafeRawBufferPointer(rebasing: bytes[(start * width)..<((start + piece) * width)]), count: piece, into: floats)
                overflow = store(UnsafeBufferPointer(floats), in: target, at: start) || overflow
            }
        }
        if overflow { throw .overflowsF16(row: rows.lowerBound) }
    }

    package func decodeFloats(_ bytes: UnsafeRawBufferPointer, count: Int, into target: UnsafeMutableBufferPointer<Float>) {
        Self.inPieces(count) { start, piece in
            floats(bytes, start, piece) { (target.baseAddress! + start).update(from: $0, count: piece) }
        }
    }

    /// Whether no value is NaN or infinite.
    static func areFinite(_ floats: UnsafeBufferPointer<Float>) -> Bool {
        guard let base = floats.baseAddress else { return true }
        return UnsafeRawPointer(base).withMemoryRebound(to: UInt32.self, capacity: floats.count) {
            ck_count_masked32($0, floats.count, 0x7F80_0000) == 0
        }
    }

    /// Work in pieces that stay in the first-level cache.
    private static func inPieces(_ count: Int, _ body: (_ start: Int, _ count: Int) -> Void) {
        for start in stride(from: 0, to: count, by: 2048) { body(start, min(2048, count - start)) }
    }

    /// The stored values as F32 (F64 is rounded).
    private func floats(_ bytes: UnsafeRawBufferPointer, _ start: Int, _ count: Int, _ body: (UnsafePointer<Float>) -> Void) {
        withUnsafeTemporaryAllocation(of: Float.self, capacity: count) { floats in
            guard let target = floats.baseAddress else { return }
            switch type {
            case .bf16: ck_bf16_to_f32(bytes.scalars(UInt16.self).baseAddress! + start, target, count)
            case .f16: ck_f16_to_f32(KernelLevel.active.rawValue, bytes.scalars(UInt16.self).baseAddress! + start, target, count)
            case .f32: floats.baseAddress!.update(from: bytes.scalars(Float.self).baseAddress! + start, count: count)
            default: for i in 0..<count { target[i] = Float(bytes.scalars(Double.self)[start + i]) }
            }
            body(target)
        }
    }

    /// Stores F32 values; says whether a finite one became infinite as F16.
    private func store(_ floats: UnsafeBufferPointer<Float>, in bytes: UnsafeMutableRawBufferPointer, at start: Int) -> Bool {
        let count = floats.count
        switch type {
        case .bf16: ck_f32_to_bf16(floats.baseAddress, bytes.scalars(UInt16.self).baseAddress! + start, count)
        case .f16:
            ck_f32_to_f16(KernelLevel.active.rawValue, floats.baseAddress, bytes.scalars(UInt16.self).baseAddress! + start, count)
            return floats.contains { $0.isFinite && $0.magnitude >= 65520 }
        case .f32: (bytes.scalars(Float.self).baseAddress! + start).update(from: floats.baseAddress!, count: count)
        default: for i in 0..<count { bytes.scalars(Double.self)[start + i] = Double(floats[i]) }
        }
        return false
    }
}
