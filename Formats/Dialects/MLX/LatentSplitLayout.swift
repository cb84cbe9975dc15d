import Tensors

/// MLX's two halves of `kv_b_proj`, seen as the one weight that they are: `embed_q` [heads, rank, nope] holds the key part of each head
/// transposed, `unembed_out` [heads, value, rank] the value part. Either half has a layout of its own. Read only.
///
/// Source: ml-explore/mlx-lm:mlx_lm/models/deepseek_v3.py (`sanitize`).
package struct LatentSplitLayout: WideLayout {
    /// Rows of a head: keys, then values.
    package var nope: Int
    package var value: Int
    package var keys: any WeightLayout
    package var values: any WeightLayout

    package init(nope: Int, value: Int, keys: any WeightLayout, values: any WeightLayout) {
        self.nope = nope
        self.value = value
        self.keys = keys
        self.values = values
    }

    package var name: String { keys.name == values.name ? "\(keys.name) by head" : "\(keys.name) and \(values.name) by head" }
    package var rowAlignment: Int { nope + value }
    package var isJoinedFromParts: Bool { true }
    package var hasSignedScales: Bool { keys.hasSignedScales || values.hasSignedScales }

    private func shapes(_ heads: Int, _ rank: Int) -> (keys: MatrixShape, values: MatrixShape) {
        (MatrixShape(rows: heads * rank, columns: nope), MatrixShape(rows: heads * value, columns: rank))
    }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let heads = shape.rows / (nope + value)
        let shapes = shapes(heads, shape.columns)
        func stacked(_ part: WeightPart, _ module: String, _ rows: Int) -> WeightPart {
            WeightPart(module + "." + part.leaf, part.type, [heads, rows] + part.shape.dropFirst(), rows: .every(nope + value))
        }
        return keys.parts(of: shapes.keys).map { stacked($0, "embed_q", shape.columns) }
            + values.parts(of: shapes.values).map { stacked($0, "unembed_out", value) }
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<UInt16>
    ) { join(parts, rows: rows, shape: shape, into: target) { $0.decode($1, rows: 0..<$2.rows, shape: $2, into: $3) } }

    package var exceedsBF16: Bool { keys.exceedsBF16 || values.exceedsBF16 }
    package var staysWideForCodes: Bool { [keys, values].allSatisfy { $0.isPlainBF16 || ($0 as? any WideLayout)?.staysWideForCodes == true } }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) { join(parts, rows: rows, shape: shape, into: target) { $0.decodeWidest($1, rows: 0..<$2.rows, shape: $2, into: $3) } }

    /// Brings the values of both halves, as `decode` writes them, to their places among the rows of the whole.
    private func join<Value: BitwiseCopyable>(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Value>,
        decode: (any WeightLayout, [UnsafeRawBufferPointer], MatrixShape, UnsafeMutableBufferPointer<Value>) -> Void
    ) {
        let heads = rows.count / (nope + value)
        let rank = shape.columns
        let shapes = shapes(heads, rank)
        let split = keys.parts(of: shapes.keys).count
        let size = max(1, max(shapes.keys.count, shapes.values.count))
        withUnsafeTemporaryAllocation(of: Value.self, capacity: size) { half in
            decode(keys, Array(parts[..<split]), shapes.keys, UnsafeMutableBufferPointer(rebasing: half[..<shapes.keys.count]))
            for head in 0..<heads {
                for row in 0..<nope {
                    for column in 0..<rank {
                        target[(head * (nope + value) + row) * rank + column] = half[(head * rank + column) * nope + row]
                    }
                }
            }
            decode(values, Array(parts[split...]), shapes.values, UnsafeMutableBufferPointer(rebasing: half[..<shapes.values.count]))
            for head in 0..<heads {
                for index in 0..<value * rank {
                    target[(head * (nope + value) + nope) * rank + index] = half[head * value * rank + index]
                }
            }
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) { throw .readOnly }
}
