import Tensors

/// `X.weight` U32 with `X.scales` and `X.biases`.
package enum MLXFamily: LayoutFamily {
    package static let targets: [LayoutTarget] = [4, 8, 2, 3, 5, 6].flatMap { bits in
        [64, 32, 128].map { group in
            let layout = MLXAffineLayout(bits: bits, group: group)
            return LayoutTarget(
                layout.name, layout, dialect: .mlx, isListed: group == 64,
                peers: .init(encoder: "mlx-lm 0.32, MLX 0.32", readers: "MLX 0.32, mlx-lm 0.32"))
        }
    }

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["weight"], weight.type == .u32, weight.shape.count == 2, let scales = module["scales"],
            let biases = module["biases"]
        else { return nil }
        guard scales.shape.count == 2, scales.shape[0] == weight.shape[0], scales.shape == biases.shape, scales.type == biases.type,
            [.bf16, .f16, .f32].contains(scales.type), scales.shape[1] > 0
        else { throw LayoutFault(scales.name, "is \(scales.summary) beside \(weight.summary) and biases \(biases.summary)") }
        // Words a row = groups * size * bits / 32; groups are of 32, 64 or 128.
        let words = weight.shape[1], groups = scales.shape[1]
        var candidates: [MLXAffineLayout] = []
        for group in [64, 32, 128] where words * 32 % (groups * group) == 0 {
            let bits = words * 32 / (groups * group)
            if [2, 3, 4, 5, 6, 8].contains(bits) { candidates.append(MLXAffineLayout(bits: bits, group: group, scaleType: scales.type)) }
        }
        let settings = config.flatMap { $0.mlxSettings(of: module.module) }
        guard let layout = candidates.first(where: { $0.bits == settings?.bits && $0.group == settings?.group }) ?? candidates.first else {
            throw LayoutFault(weight.name, "is \(weight.summary) with scales \(scales.summary), which no width and group size of MLX explain")
        }
        return RecognisedWeight(layout, MatrixShape(rows: weight.shape[0], columns: groups * layout.group))
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? {
        guard let layout = layout as? MLXAffineLayout else { return nil }
        return .mlx(["group_size": .int(layout.group), "bits": .int(layout.bits), "mode": .string("affine")])
    }
}
