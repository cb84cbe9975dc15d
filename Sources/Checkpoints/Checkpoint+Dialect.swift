import Formats
import StrictJSON
import Tensors

/// MLX's names and stacks undone, so that a checkpoint in its dialect has the same weights as any other.
enum MLXDialect {
    /// More experts than any model has.
    static let stackLimit = 1 << 16

    /// Every `switch_mlp` tensor as the tensors of its experts, each a slice of the stored bytes.
    static func unstacked(_ tensors: [StoredTensor]) -> [StoredTensor] {
        guard tensors.contains(where: { $0.name.contains(".switch_mlp.") }) else { return tensors }
        return tensors.flatMap { tensor -> [StoredTensor] in
            guard let place = tensor.name.range(of: ".switch_mlp."), tensor.shape.count >= 2, tensor.byteCount > 0,
                (1...stackLimit).contains(tensor.shape[0])
            else { return [tensor] }
            let count = tensor.shape[0]
            let size = tensor.byteCount / count
            return (0..<count).map { expert in
                var slice = tensor
                slice.name = tensor.name[..<place.lowerBound] + ".experts.\(expert)." + tensor.name[place.upperBound...]
                slice.shape.removeFirst()
                slice.offset += expert * size
                slice.byteCount = size
                return slice
            }
        }
    }

    /// `kv_b_proj` out of `embed_q` and `unembed_out`; nil if the tensors are not those of a split projection.
    static func latentProjection(
        _ parent: String, _ members: [StoredTensor], quantization: QuantizationConfig?, read: @escaping (StoredTensor) throws -> [UInt8]
    ) throws -> Weight? {
        func half(_ name: String) throws -> (layout: any WeightLayout, stored: [StoredTensor], heads: Int, rows: Int, columns: Int)? {
            let module = parent + "." + name
            let mine = members.filter { WeightName.module($0.name) == module }
            guard let first = mine.first(where: { WeightName.leaf($0.name) == "weight" }),
                mine.allSatisfy({ $0.shape.count == 3 && !$0.shape.contains(0) })
            else { return nil }
            let flat = mine.map { tensor -> (leaf: String, tensor: StoredTensor) in
                var flat = tensor
                flat.shape = [tensor.shape[0] * tensor.shape[1], tensor.shape[2]]
                return (String(WeightName.leaf(tensor.name)), flat)
            }
            let (heads, rows) = (first.shape[0], first.shape[1])
            if mine.count == 1 {
                return first.type.isDenseFloat ? (DenseLayout(first.type), [first], heads, rows, first.shape[2]) : nil
            }
            let tensors = ModuleTensors(module: module, tensors: flat, read: read)
            for family in LayoutRegistry.families {
                guard let found = try family.recognise(tensors, config: quantization) else { continue }
                let stored = found.layout.parts(of: MatrixShape(found.dimensions)).compactMap { part in
                    mine.first { WeightName.leaf($0.name) == part.leaf && $0.type == part.type }
                }
                return (found.layout, stored, heads, rows, found.dimensions[1])
            }
            return nil
        }
        guard let keys = try half("embed_q"), let values = try half("unembed_out"), keys.heads == values.heads, keys.rows == values.columns,
            keys.layout.rowAlignment == 1, values.layout.rowAlignment == 1
        else { return nil }
        let layout = LatentSplitLayout(nope: keys.columns, value: values.rows, keys: keys.layout, values: values.layout)
        let dimensions = [keys.heads * (keys.columns + values.rows), keys.rows]
        let stored = keys.stored + values.stored
        let parts = layout.parts(of: MatrixShape(dimensions))
        guard parts.count == stored.count,
            zip(parts, stored).allSatisfy({ $0.type == $1.type && $0.shape == $1.shape && $0.byteCount == $1.byteCount })
        else { return nil }
        return Weight(name: parent + ".kv_b_proj.weight", dimensions: dimensions, layout: layout, stored: stored)
    }
}
