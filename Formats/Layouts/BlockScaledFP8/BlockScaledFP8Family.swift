import StrictJSON
import Tensors

/// `X.weight` in E4M3 with a two-dimensional grid of scales, whatever the scales are called.
package enum BlockScaledFP8Family: LayoutFamily {
    package static let targets = [
        LayoutTarget("fp8-block", BlockScaledFP8Layout(), peers: .init(encoder: "PyTorch 2.13, DeepSeek's formula", readers: "transformers 5.24")),
        LayoutTarget("fp8-block-ue8m0", BlockScaledFP8Layout(roundsScaleUp: true), peers: .init(encoder: "PyTorch 2.13, DeepSeek's formula")),
    ]

    package static let companionLeaves: Set<String> = ["weight_scale_inv", "weight_scale"]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["weight"], weight.type == .f8E4M3, weight.shape.count == 2 else { return nil }
        let leaves = ["weight_scale_inv", "scale", "weight_scale"]
        let scales = leaves.compactMap { module[$0] }.filter { $0.type.isScale && $0.shape.count == 2 }
        if scales.count > 1 { throw LayoutFault(weight.name, "has two grids of scales, \(scales[0].name) and \(scales[1].name)") }
        for leaf in leaves {
            guard let scale = module[leaf], scale.type.isScale else { continue }
            let shape = MatrixShape(weight.shape)
            guard scale.shape.count == 2 else { return nil }
            // One value for more than a block is a tensor's scale; rows of one value each are channels'.
            if config?.block == nil {
                if scale.shape == [1, 1], shape.rows > 128 || shape.columns > 128 { return nil }
                if leaf == "weight_scale", scale.shape == [shape.rows, 1] { return nil }
            }
            let rows = try block(along: shape.rows, cut: scale.shape[0], asked: config?.block?[0], scale, "rows", weight)
            let columns = try block(along: shape.columns, cut: scale.shape[1], asked: config?.block?[1], scale, "columns", weight)
            return RecognisedWeight(
                BlockScaledFP8Layout(
                    blockRows: rows, blockColumns: columns, scaleType: scale.type, scaleLeaf: leaf,
                    roundsScaleUp: config?.powerOfTwoScales == true || scale.type == .f8E8M0), shape)
        }
        return nil
    }

    /// The block's size along one dimension: what the configuration says, if the scale agrees; without a configuration, 128 or
    /// else the power of two that cuts the dimension into as many blocks as there are scales.
    private static func block(
        along size: Int, cut count: Int, asked: Int?, _ scale: StoredTensor, _ dimension: String, _ weight: StoredTensor
    ) throws -> Int {
        if let asked {
            guard ceilingDivide(size, asked) == count else {
                throw LayoutFault(
                    scale.name,
                    "has the shape \(scale.shape), but \(size) \(dimension) of \(weight.name) in blocks of \(asked) need \(ceilingDivide(size, asked)) scales"
                )
            }
            return asked
        }
        let candidates = [128] + (0...16).map { 1 << $0 }
        guard let block = candidates.first(where: { ceilingDivide(size, $0) == count }) else {
            throw LayoutFault(scale.name, "has the shape \(scale.shape), which no block size fits to the shape \(weight.shape) of \(weight.name)")
        }
        return block
    }

    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        guard let from = source as? BlockScaledFP8Layout, let to = target as? BlockScaledFP8Layout else { return .unrelated }
        return BlockScaleRepacking.offer(from: from, to: to)
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? BlockScaledFP8Layout else { return nil }
        let block = [layout.blockRows, layout.blockColumns]
        guard layout.scaleLeaf == "weight_scale" else { return .fp8(block: block, powerOfTwoScales: layout.roundsScaleUp) }
        return .compressedTensors(
            format: "float-quantized",
            weights: CompressedTensorsConfig.arguments(bits: 8, type: "float", strategy: "block", block: block),
            activations: CompressedTensorsConfig.arguments(bits: 8, type: "float", strategy: "group", groupSize: block[1], dynamic: true))
    }
}
