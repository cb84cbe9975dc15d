import CKernels
import Tensors

/// NVFP4 as GGUF files hold it: blocks of 64 columns, four E4M3 scales and their E2M1 codes, and the scale of the whole tensor in a tensor of its own,
/// which llama.cpp multiplies products by.
///
/// Source: ggml-org/llama.cpp:conversion/base.py (`_nvfp4_pack`, `_write_scale_tensor`). A value is code * (scale * tensor's scale), as ModelOpt has it.
package struct NVFP4BlockLayout: NumberLayout, Equatable {
    package static let scaleLeaf = "scale"
    static let blockValues = 64, blockBytes = 36

    package init() {}

    package var type: ScalarType { .nvfp4Block }

    package var name: String { "NVFP4" }

    package func groupColumns(of columns: Int) -> Int { 16 }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [
            WeightPart("weight", .nvfp4Block, [shape.rows, shape.columns]), WeightPart(Self.scaleLeaf, .f32, [1], rows: .whole),
        ]
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.columns % Self.blockValues != 0 ? "\(shape.columns) columns are not a multiple of NVFP4's blocks of \(Self.blockValues)" : nil
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let target = values.baseAddress else { return }
        blocks(parts, count: rows.count * shape.columns / Self.blockValues) { start, codes, scales in
            ck_e2m1_decode(KernelLevel.active.rawValue, codes, 4, 16, scales, 1, target + start)
        }
    }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        guard let target = target.baseAddress else { return }
        blocks(parts, count: rows.count * shape.columns / Self.blockValues) { start, codes, scales in
            E2M1.decodeFloats(codes, groups: 4, size: 16, scales: scales, negativeZero: true, into: target + start)
        }
    }

    /// Calls `body` for every block, with the place of its first value, its codes in the order of the columns and its scales.
    private func blocks(_ parts: [UnsafeRawBufferPointer], count: Int, _ body: (Int, UnsafePointer<UInt8>, UnsafePointer<Float>) -> Void) {
        let scale = parts[1].scalars(Float.self)[0], blocks = parts[0]
        var codes = [UInt8](repeating: 0, count: 32), scales = [Float](repeating: 0, count: 4)
        for block in 0..<count {
            let start = block * Self.blockBytes
            for group in 0..<4 {
                scales[group] = Float8E4M3(bits: blocks[start + group] & 0x7F).value * scale
                Self.pairs(blocks, start + 4 + group * 8) { codes[group * 8 + $0] = $1 }
            }
            body(block * Self.blockValues, codes, scales)
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) { throw .readOnly }

    /// A group's codes as neighbours: ggml has the first half in the low halves of the bytes.
    private static func pairs(_ bytes: UnsafeRawBufferPointer, _ start: Int, _ body: (_ index: Int, _ pair: UInt8) -> Void) {
        for index in 0..<4 {
            body(index, bytes[start + 2 * index] & 15 | bytes[start + 2 * index + 1] << 4)
            body(index + 4, bytes[start + 2 * index] >> 4 | bytes[start + 2 * index + 1] & 0xF0)
        }
    }
}

/// NVFP4 of ModelOpt or compressed-tensors in ggml's order.
struct NVFP4Blocks: Repacking {
    let from: NVFP4Layout

    var source: any WeightLayout { from }
    var target: any WeightLayout { NVFP4BlockLayout() }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        if parts[1].contains(where: { $0 > 0x7E }) { return "a scale is negative or none, and ggml's have no sign" }
        return scale(parts) == nil ? "no F32 is close enough to the reciprocal of the tensor's scale" : nil
    }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        let (codes, scales, blocks) = (parts[0], parts[1], targets[0])
        targets[1].scalars(Float.self)[0] = scale(parts) ?? .nan
        for group in 0..<rows.count * shape.columns / 16 {
            let block = group / 4 * NVFP4BlockLayout.blockBytes
            blocks[block + group % 4] = scales[group]
            for index in 0..<8 {
                // Value 2i is the low half of byte i, value 2i + 1 its high half.
                let low = codes[group * 8 + index / 2] >> (index % 2 * 4) & 15
                let high = codes[group * 8 + 4 + index / 2] >> (index % 2 * 4) & 15
                blocks[block + 4 + group % 4 * 8 + index] = low | high << 4
            }
        }
    }

    private func scale(_ parts: [UnsafeRawBufferPointer]) -> Float? {
        let stored = parts[2].scalars(Float.self)[0]
        guard !from.isModelOpt else { return stored.isFinite && stored > 0 ? stored : nil }
        return NVFP4Repacking(from: from, to: NVFP4Layout(naming: .modelOpt)).reciprocal(of: stored)
    }
}
