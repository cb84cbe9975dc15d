import CKernels
import Tensors

/// compressed-tensors `int-quantized`: signed 8-bit codes, a byte each, with a scale for each row, for groups of its columns, or for the whole
/// tensor; activations are INT8 at run time (W8A8).
///
/// Codes and scales are those of `int8-channel`, which packs the same bytes with an offset of 128. Reference:
/// vllm-project/compressed-tensors:quantization/utils/helpers.py (`calculate_qparams`): scale = round_bf16(amax / 127.5), 2^-7 if that is zero, and
/// code = rint(clamp(round_bf16(w / scale), -128, 127)).
package struct IntegerQuantizedLayout: IntegerCodedLayout, Equatable {
    /// BF16, F16 or F32.
    package var scaleType: ScalarType
    /// Columns that share a scale; nil for all of a row.
    package var groupSize: Int?
    /// `[out, groups]`, or `[out]` as some tools write it; `[1]` or `[]` for a whole tensor.
    package var scaleShape: [Int]?
    /// Whether one scale is all the tensor's.
    package var isWhole: Bool

    package init(scaleType: ScalarType = .bf16, groupSize: Int? = nil, scaleShape: [Int]? = nil, isWhole: Bool = false) {
        self.scaleType = scaleType
        self.groupSize = groupSize
        self.scaleShape = scaleShape
        self.isWhole = isWhole
    }

    package var name: String { isWhole ? "w8a8-int8 of one scale" : "w8a8-int8" + (groupSize.map { " in groups of \($0)" } ?? "") }
    package var needsDescription: Bool { true }
    package var bits: Int { 8 }

    package func obstacle(to shape: MatrixShape) -> String? {
        guard let groupSize, shape.columns % groupSize != 0 else { return nil }
        return "\(shape.columns) columns are not a multiple of the group size \(groupSize)"
    }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [
            WeightPart("weight", .i8, [shape.rows, shape.columns]),
            WeightPart(
                "weight_scale", scaleType, scaleShape ?? (isWhole ? [1] : [shape.rows, groupCount(shape)]), rows: isWhole ? .whole : .every(1)),
        ]
    }

    package func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>) {
        // Two's complement and the offset of unsigned codes differ in the highest bit only.
        let source = parts[0].scalars(UInt8.self)
        for index in 0..<rows.count * shape.columns { codes[index] = source[index] ^ 0x80 }
    }

    package func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into groups: UnsafeMutablePointer<GroupParameters>
    ) {
        for index in 0..<rows.count * groupCount(shape) {
            groups[index] = GroupParameters(scale: scaleType.float(in: parts[1], at: isWhole ? 0 : index), zero: 128)
        }
    }

    package func store(
        codes: UnsafePointer<UInt8>, groups: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) {
        let target = parts[0].scalars(UInt8.self)
        for index in 0..<rows.count * shape.columns { target[index] = codes[index] ^ 0x80 }
        for index in 0..<rows.count * groupCount(shape) { scaleType.store(groups[index].scale, in: parts[1], at: index) }
    }

    package var requirement: String { "a non-negative \(scaleType.rawValue) scale and the zero point 128" }

    package func holds(_ group: GroupParameters) -> Bool { !isWhole && scaleType.holds(group.scale) && group.scale >= 0 && group.zero == 128 }

    package func adopting(scaleType: ScalarType) -> Self {
        [.bf16, .f16, .f32].contains(scaleType) ? IntegerQuantizedLayout(scaleType: scaleType, groupSize: groupSize) : self
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard scaleType == .bf16, !isWhole else { throw .readOnly }
        guard let source = values.baseAddress, let codes = parts[0].scalars(UInt8.self).baseAddress,
            let scales = parts[1].scalars(UInt16.self).baseAddress
        else { return }
        let level = KernelLevel.active.rawValue
        let (count, size) = (groupCount(shape), groupSize ?? shape.columns)
        for group in 0..<rows.count * count {
            let start = group * size
            scales[group] = ck_bf16_amax(level, source + start, size, 1, size)
            guard scales[group] < 0x7F80 else { throw .notFinite(row: rows.lowerBound + group / count) }
            ck_bf16_symmetric_scales(scales + group, 1, 127.5)
            ck_int8_encode(level, source + start, scales + group, 1, size, codes + start)
            for place in start..<start + size { codes[place] ^= 0x80 }
        }
    }
}
