import Architectures
import StrictJSON
import Tensors

/// The names of released checkpoints, which are the canonical ones. transformers 5 stacks the experts of a layer; they are read and not written so.
package struct HuggingFace: StackedDialect {
    package init() {}

    package var name: String { "Hugging Face" }
    package var readers: String { "transformers, vLLM and SGLang" }
    package var isCanonical: Bool { true }

    package func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece] {
        guard let place = model.roles.architecture?.place(of: weight.module), let expert = place.expert, model.holdsStackedExperts,
            let stack = Self.stack(of: weight.module)
        else { return [StoredPiece(module: weight.module)] }
        guard model.experts > 0 else {
            throw DialectFailure(tensor: weight.name, reason: "belongs into a stack, and config.json gives no number of experts")
        }
        return [StoredPiece(module: stack, stack: (expert, model.experts))]
    }

    /// `model.layers.3.mlp.experts.down_proj` of `model.layers.3.mlp.experts.7.down_proj`.
    private static func stack(of module: String) -> String? {
        let words = module.split(separator: ".")
        return words.count < 3 ? nil : (words.dropLast(2) + words.suffix(1)).joined(separator: ".")
    }

    package func storedName(of tensor: String, isStacked: Bool) -> String {
        isStacked ? GptOssExperts.storedName(of: tensor) ?? tensor : tensor
    }

    package func arranged(_ layout: any WeightLayout, of piece: StoredPiece, leaf: String, in model: DialectModel) throws(DialectFailure)
        -> any WeightLayout
    {
        if model.holdsStackedExperts, piece.module.hasSuffix(".experts") {
            throw DialectFailure(tensor: piece.module + "." + leaf, reason: "is no stack of experts of the sizes that config.json gives gpt-oss")
        }
        guard piece.stack != nil, leaf == "weight" else {
            if layout is TransposedDenseLayout || (layout as? MXFP4Layout)?.naming == .blocks {
                throw DialectFailure(tensor: piece.module, reason: "comes out of a stack of experts, and others of them are stored by themselves")
            }
            return layout
        }
        if layout.isPlainBF16 { return TransposedDenseLayout() }
        if layout is TransposedDenseLayout || (layout as? MXFP4Layout)?.naming == .blocks { return layout }
        throw DialectFailure(
            tensor: piece.module,
            reason: "no reader takes gpt-oss's experts as \(layout.name): they are MXFP4 blocks (--to keep) or BF16 stacks (--to bf16)")
    }

    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        if GptOssExperts.isModel(config) { return GptOssExperts.unstacked(tensors, config: config, note: note) }
        return FusedExperts(config).unstacked(tensors, note: note)
    }
}

extension Dialect where Self == HuggingFace {
    package static var huggingFace: HuggingFace { HuggingFace() }
}
