import CKernels
import Tensors

/// MLX's affine form: `weight` U32 [out, in*bits/32], `scales` and `biases` [out, in/group] in the model's dtype.
///
/// Codes of one row form a stream of bits, lowest first (widths 3, 5 and 6 straddle words). Value = scale * code + bias, product and
/// sum each rounded to the dtype. Reference: ml-explore/mlx:mlx/backend/cpu/quantized.cpp (`quantize`), mlx/ops.cpp (`dequantize`).
package struct MLXAffineLayout: IntegerCodedLayout, Equatable {
    /// 2, 3, 4, 5, 6 or 8.
    package var bits: Int
    /// 32, 64 or 128.
    package var group: Int
    package var scaleType: ScalarType

    package init(bits: Int = 4, group: Int = 64, scaleType: ScalarType = .bf16) {
        self.bits = bits
        self.group = group
        self.scaleType = scaleType
    }

    package var groupSize: Int? { group }
    package var hasBias: Bool { true }
    package var zeroPoints: ZeroPoints { .bias }
    /// The encoder begins at the edge of larger magnitude, from which the codes may go down.
    package var hasSignedScales: Bool { true }
    package var name: String { "mlx-\(bits)bit" + (group == 64 ? "" : "-g\(group)") }

    func wordsPerRow(_ shape: MatrixShape) -> Int { shape.columns * bits / 32 }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let groups = groupCount(shape)
        return [
            WeightPart("weight", .u32, [shape.rows, wordsPerRow(shape)]), WeightPart("scales", scaleType, [shape.rows, groups]),
            WeightPart("biases", scaleType, [shape.rows, groups]),
        ]
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.columns % group != 0 ? "\(shape.columns) columns are not a multiple of the group size \(group)" : nil
    }

    package func readCodes(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into codes: UnsafeMutablePointer<UInt8>) {
        BitStream.unpackRows(parts[0], bits: bits, wordsPerRow: wordsPerRow(shape), rows: rows.count, columns: shape.columns, into: codes)
    }

    package func readGroups(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into groups: UnsafeMutablePointer<GroupParameters>
    ) {
        for index in 0..<rows.count * groupCount(shape) {
            let scale = scaleType.float(in: parts[1], at: index), bias = scaleType.float(in: parts[2], at: index)
            // Where the bias is a whole multiple of the scale the division is exact, in F64 at any rate.
            // A group of zeros has any zero point; the middle one suits symmetric layouts too.
            let zero = scale == 0 ? (bias == 0 ? Float(1 << (bits - 1)) : .nan) : Float(-Double(bias) / Double(scale))
            groups[index] = GroupParameters(scale: scale, zero: zero, bias: bias)
        }
    }

    package func store(
        codes: UnsafePointer<UInt8>, groups: UnsafePointer<GroupParameters>, rows: Range<Int>, shape: MatrixShape,
        into parts: [UnsafeMutableRawBufferPointer]
    ) {
        BitStream.packRows(codes, bits: bits, wordsPerRow: wordsPerRow(shape), rows: rows.count, columns: shape.columns, into: parts[0])
        for index in 0..<rows.count * groupCount(shape) {
            let group = groups[index]
            scaleType.store(group.scale, in: parts[1], at: index)
            scaleType.store(group.bias != 0 ? group.bias : -group.zero * group.scale, in: parts[2], at: index)
        }
    }

    /// scale * code + bias, product and sum each rounded to the dtype.
    package func float(_ code: Int, _ group: GroupParameters) -> Float { rounded(rounded(Float(code) * group.scale) + group.bias) }

    package var requirement: String { "a scale, and scale x zero point as a bias, that \(scaleType.rawValue) can hold" }

    package func holds(_ group: GroupParameters) -> Bool {
        scaleType.holds(group.scale) && scaleType.holds(group.bias != 0 ? group.bias : -group.zero * group.scale)
    }

    /// MLX computes in the type of the scales.
    package func adopting(scaleType: ScalarType) -> Self {
        var layout = self
        if [.bf16, .f16, .f32].contains(scaleType) { layout.scaleType = scaleType }
        return layout
    }

    /// In F32: scale = max((max - min) / (2^bits - 1), 1e-7), negative unless |min| > |max|; the edge of larger magnitude is then
    /// made a code of its own. Codes come from the F32 scale and bias, which are rounded to BF16 afterwards.
    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard scaleType == .bf16 else { throw .readOnly }
        guard let source = values.baseAddress, let packed = parts[0].scalars(UInt8.self).baseAddress else { return }
        let count = groupCount(shape)
        let bins = Float((1 << bits) - 1)
        let level = KernelLevel.active.rawValue
        let scales = parts[1].scalars(UInt16.self).baseAddress!, biases = parts[2].scalars(UInt16.self).baseAddress!
        let tiles = GroupTiles(rows: rows, columns: shape.columns, groupSize: group, blockRows: 8)
        try tiles.encode(source, greatestCode: bins, rule: CK_BIAS_F32) { block throws(EncodingFault) in
            ck_mlx_parameters(level, block.least, block.greatest, block.groupCount, bins, block.scales, block.offsets)
        } store: { block in
            let (columns, groups) = (block.columns.count, block.groups.count)
            for row in 0..<block.rows.count {
                let place = (block.rows.lowerBound + row) * count + block.groups.lowerBound
                ck_f32_to_bf16(block.scales + row * groups, scales + place, groups)
                ck_f32_to_bf16(block.offsets + row * groups, biases + place, groups)
                let bit = ((block.rows.lowerBound + row) * shape.columns + block.columns.lowerBound) * bits
                ck_pack_codes(level, block.codes + row * columns, columns, Int32(bits), packed + bit / 8)
            }
        }
    }
}
