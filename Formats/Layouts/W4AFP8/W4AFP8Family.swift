import Tensors

/// `X.weight` I8 with `X.weight_scale_inv` of one value for 128 columns.
package enum W4AFP8Family: LayoutFamily {
    package static let targets = [LayoutTarget("w4afp8", W4AFP8Layout(), besideExperts: "fp8-block", peers: .init(encoder: "codes of int4-g128"))]

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        // INT8 in groups of 64 has just this shape: only a configuration can say that two codes share a byte.
        guard config?.method == "w4afp8", let weight = module["weight"], weight.type == .i8, weight.shape.count == 2,
            let scale = module["weight_scale_inv"], [.f32, .bf16, .f16].contains(scale.type)
        else { return nil }
        let shape = MatrixShape(rows: weight.shape[0], columns: weight.shape[1] * 2)
        guard scale.shape == [shape.rows, ceilingDivide(shape.columns, 128)], shape.columns % 128 == 0 else {
            throw LayoutFault(scale.name, "is \(scale.summary) beside \(weight.summary); packed int4 has one scale for 128 columns")
        }
        return RecognisedWeight(W4AFP8Layout(scaleType: scale.type), shape)
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? { layout is W4AFP8Layout ? .w4afp8 : nil }
}
