import Tensors

/// Tensors of ggml's blocks, as GGUF files hold them.
package enum GGMLBlockFamily: LayoutFamily {
    package static let targets = LlamaCppFileType.all.compactMap { file in
        GGMLBlockLayout(file.type).map { layout in
            LayoutTarget(
                file.name, layout, dialect: LlamaCpp(file), isListed: false,
                peers: .init(encoder: "ggml (llama.cpp 0c1e570)", readers: "llama.cpp, gguf 0.19"))
        }
    }

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) throws -> RecognisedWeight? {
        guard let weight = module["weight"], let layout = GGMLBlockLayout(weight.type) else { return nil }
        if let scale = module[NVFP4BlockLayout.scaleLeaf] {
            guard weight.type == .nvfp4Block, weight.shape.count == 2, scale.type == .f32, scale.shape == [1] else {
                throw LayoutFault(
                    scale.name,
                    "is \(scale.summary) beside \(weight.name), \(weight.summary), and only NVFP4 has a scale of its tensor that is read here")
            }
            return RecognisedWeight(NVFP4BlockLayout(), MatrixShape(weight.shape))
        }
        return RecognisedWeight(layout, MatrixShape(weight.shape), dimensions: weight.shape.count == 1 ? [1, weight.shape[0]] : weight.shape)
    }

    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        if target is NVFP4BlockLayout, let from = source as? NVFP4Layout { return .possible([NVFP4Blocks(from: from)]) }
        guard let to = target as? GGMLBlockLayout else { return .unrelated }
        if let from = source as? MXFP4Layout, to.type == .mxfp4Block { return .possible([MXFP4Blocks(from: from, to: to)]) }
        if let from = source as? any IntegerCodedLayout, let blocks = IntegerBlocks(from, to) { return .possible([blocks]) }
        return .unrelated
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? { nil }
}
