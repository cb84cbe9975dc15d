import Tensors

/// compressed-tensors `pack-quantized`: integer codes in 32-bit words along the columns, scales for groups of columns.
///
/// Element i of a row lies at bit i * bits of the row's words, lowest bits first, stored with an offset of 2^(bits - 1).
/// Reference: vllm-project/compressed-tensors:compressors/pack_quantized/helpers.py (`pack_to_int32`).
package struct PackedIntegerLayout: WeightLayout, Equatable {
    /// 1...8.
    package var bits: Int
    /// Columns that share a scale; nil for one scale a row.
    package var groupSize: Int?
    package var symmetric: Bool
    /// BF16, F16 or F32.
    package var scaleType: ScalarType

    package init(bits: Int, groupSize: Int?, symmetric: Bool = true, scaleType: ScalarType = .bf16) {
        self.bits = bits
        self.groupSize = groupSize
        self.symmetric = symmetric
        self.scaleType = scaleType
    }

    package var name: String {
        "int\(bits)-" + (groupSize.map { "g\($0)" } ?? "channel") + (symmetric ? "" : "-asym")
    }

    /// Zero points are packed along the rows: 32 / gcd(bits, 32) rows fill whole words.
    package var rowAlignment: Int { symmetric ? 1 : 32 / (bits & -bits) }

    func groups(_ shape: MatrixShape) -> Int { groupSize.map { ceilingDivide(shape.columns, $0) } ?? 1 }

    func wordsPerRow(_ shape: MatrixShape) -> Int { ceilingDivide(shape.columns * bits, 32) }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        var parts = [
            WeightPart("weight_packed", .i32, [shape.rows, wordsPerRow(shape)]),
            WeightPart("weight_scale", scaleType, [shape.rows, groups(shape)]),
            WeightPart("weight_shape", .i64, [2], rows: .whole),
        ]
        if !symmetric {
            parts.append(WeightPart("weight_zero_point", .i32, [ceilingDivide(shape.rows * bits, 32), groups(shape)], rows: .packed(bits: bits)))
        }
        return parts
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        guard let groupSize, shape.columns % groupSize != 0 else { return nil }
        return "\(shape.columns) columns are not a multiple of the group size \(groupSize)"
    }
}
