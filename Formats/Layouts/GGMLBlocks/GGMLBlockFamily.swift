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

    package static func recognise(_ module: ModuleTensors, config: QuantizationConfig?) -> RecognisedWeight? {
        guard let weight = module["weight"], let layout = GGMLBlockLayout(weight.type) else { return nil }
        return RecognisedWeight(layout, MatrixShape(weight.shape), dimensions: weight.shape.count == 1 ? [1, weight.shape[0]] : weight.shape)
    }

    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        guard let to = target as? GGMLBlockLayout else { return .unrelated }
        if let from = source as? MXFP4Layout, to.type == .mxfp4Block { return .possible([MXFP4Blocks(from: from, to: to)]) }
        if let from = source as? any IntegerCodedLayout, let blocks = IntegerBlocks(from, to) { return .possible([blocks]) }
        return .unrelated
    }

    package static func configuration(of layout: any WeightLayout) -> ConsumerConfiguration? { nil }
}
