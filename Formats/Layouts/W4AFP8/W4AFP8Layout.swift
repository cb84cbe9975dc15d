import CKernels
import Tensors

/// The experts of a W4AFP8 checkpoint: `weight` I8 [out, in/2] with two signed nibbles a byte, the even column low, and
/// `weight_scale_inv` [out, in/128]. Value = code * scale.
///
/// Reference: sgl-project/sglang:python/sglang/srt/layers/quantization/w4afp8.py, which vLLM reads too. There is no published
/// encoder for CPUs; codes and scales are those of compressed-tensors' symmetric int4 with groups of 128.
package struct W4AFP8Layout: IntegerCodedLayout, Equatable {
    package var scaleType: ScalarType

    package init(scaleType: ScalarType = .bf16) { self.scaleType = scaleType }

    package var needsDescription: Bool { true }
    package var bits: Int { 4 }
    package var groupSize: Int? { 128 }
    package var name: String { "w4afp8" }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [
            WeightPart("weight", .i8, [shape.rows, shape.columns / 2]),
            WeightPart("weight_scale_inv", scaleType, [shape.rows, groupCount(shape)]),
        ]
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.columns % 128 != 0 ? "\(shape.columns) columns are not a multiple of the group size 128" : nil
    }

    package func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>) {
        // Two's complement and the offset of unsigned codes differ in the highest bit only.
        guard let source = parts[0].scalars(UInt8.self).baseAddress else { return }
        let count = rows.count * shape.columns
        ck_unpack_codes(KernelLevel.active.rawValue, source, count, 4, codes)
        for index in 0..<count { codes[index] ^= 8 }
    }

    package func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into groups: UnsafeMutablePointer<GroupParameters>
    ) {
        for index in 0..<rows.count * groupCount(shape) {
            groups[index] = GroupParameters(scale: scaleType.float(in: parts[1], at: index), zero: 8)
        }
    }

    package func store(
        codes: UnsafePointer<UInt8>, groups: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) {
        guard let target = parts[0].scalars(UInt8.self).baseAddress else { return }
        let count = rows.count * shape.columns
        ck_pack_codes(KernelLevel.active.rawValue, codes, count, 4, target)
        for index in 0..<count / 2 { target[index] ^= 0x88 }
        for index in 0..<rows.count * groupCount(shape) { scaleType.store(groups[index].scale, in: parts[1], at: index) }
    }

    package var requirement: String { "a non-negative \(scaleType.rawValue) scale and the zero point 8" }

    package func holds(_ group: GroupParameters) -> Bool { scaleType.holds(group.scale) && group.scale >= 0 && group.zero == 8 }

    package func adopting(scaleType: ScalarType) -> Self { W4AFP8Layout(scaleType: scaleType == .bf16 ? .bf16 : .f32) }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard scaleType == .bf16 else { throw .readOnly }
        let twin = PackedIntegerLayout(bits: 4, groupSize: 128)
        let size = rows.count * shape.columns / 2
        try withUnsafeTemporaryAllocation(byteCount: size + 64, alignment: 64) { memory throws(EncodingFault) in
            let packed = UnsafeMutableRawBufferPointer(rebasing: memory[..<size])
            try twin.encode(
                values, rows: rows, shape: shape,
                into: [packed, parts[1], UnsafeMutableRawBufferPointer(rebasing: memory[(size + 15) / 16 * 16..<(size + 15) / 16 * 16 + 16])])
            // The packed words hold the same nibbles in the same order, offset by 8.
            for index in 0..<size { parts[0][index] = packed[index] ^ 0x88 }
        }
    }
}
