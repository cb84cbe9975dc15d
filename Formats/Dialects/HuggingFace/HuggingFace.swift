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
        let module = weight.module
        guard let form = model.joinedExperts, let place = model.roles.architecture?.place(of: module), let expert = place.expert else {
            return [StoredPiece(module: module)]
        }
        switch form {
        case .stacked:
            guard model.experts > 0, let stack = Self.stack(of: module) else {
                throw DialectFailure(tensor: weight.name, reason: "belongs into a stack, and config.json gives no number of experts")
            }
            return [StoredPiece(module: stack, stack: (expert, model.experts))]
        case .apart where place.role == .expertGateUp: return GptOssExperts.halves(of: weight)
        case .apart, .asStored: return [StoredPiece(module: module)]
        }
    }

    /// `model.layers.3.mlp.experts.down_proj` of `model.layers.3.mlp.experts.7.down_proj`.
    private static func stack(of module: String) -> String? {
        let words = module.split(separator: ".")
        return words.count < 3 ? nil : (words.dropLast(2) + words.suffix(1)).joined(separator: ".")
    }

    package func storedName(of tensor: String, isStacked: Bool) -> String {
        isStacked ? GptOssExperts.storedName(of: tensor) ?? tensor : tensor
    }

    /// transformers keeps gpt-oss's experts as BF16 stacks, its release as stacks of MXFP4 blocks and Quark as stacks of its own; llm-compressor takes
    /// them apart.
    package func stacksExperts(as layout: any WeightLayout) -> Bool {
        switch (layout as? MXFP4Layout)?.naming {
        case .blocks, .quark: true
        default: layout.isDense
        }
    }

    package func noteOnExpertsApart(_ roles: ModelRoles) -> String? {
        if roles.architecture?.needsStacks == true {
            return
                "experts are written by themselves; transformers 5.24 loads those of this architecture in stacks only and fills in random numbers, vLLM and SGLang read the release's own names (--names)"
        }
        guard roles.joinsGateAndUp else { return nil }
        return
            "experts are written by themselves with gate and up apart, as llm-compressor has them; vLLM 0.33 and transformers 5.24 load no such experts of gpt-oss (bf16, mxfp4-blocks and mxfp4-quark give stacks that they do)"
    }

    package func arranged(_ layout: any WeightLayout, of piece: StoredPiece, leaf: String, in model: DialectModel) throws(DialectFailure)
        -> any WeightLayout
    {
        if model.joinedExperts != nil, piece.module.hasSuffix(".experts") {
            throw DialectFailure(tensor: piece.module + "." + leaf, reason: "is no stack of experts of the sizes that config.json gives gpt-oss")
        }
        let isOfStacks = layout is TransposedDenseLayout || (layout as? MXFP4Layout)?.naming == .blocks
        guard piece.stack != nil, leaf == "weight" else {
            if isOfStacks {
                throw DialectFailure(tensor: piece.module, reason: "comes out of a stack of experts, and others of them are stored by themselves")
            }
            return layout
        }
        if layout.isPlainBF16 { return TransposedDenseLayout() }
        if isOfStacks || !layout.isDense && stacksExperts(as: layout) { return layout }
        throw DialectFailure(
            tensor: piece.module, reason: "no reader takes gpt-oss's stacks of experts as \(layout.name): they are BF16 (--to bf16) or MXFP4")
    }

    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        if GptOssExperts.isModel(config) { return GptOssExperts.unstacked(tensors, config: config, note: note) }
        return FusedExperts(config).unstacked(tensors, note: note)
    }
}

extension Dialect where Self == HuggingFace {
    package static var huggingFace: HuggingFace { HuggingFace() }
}
