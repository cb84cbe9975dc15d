import Architectures
import StrictJSON
import Tensors

/// The names of released checkpoints, which are the canonical ones. transformers 5 stacks the experts of a layer; they are read and not written so.
public struct HuggingFace: StackedDialect {
    public init() {}

    public var name: String { "Hugging Face" }
    public var readers: String { "transformers, vLLM and SGLang" }
    public var isCanonical: Bool { true }

    public func pieces(of weight: LogicalTensor, in model: DialectModel) -> [StoredPiece] { [StoredPiece(module: weight.module)] }

    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        FusedExperts(config).unstacked(tensors, note: note)
    }
}

extension Dialect where Self == HuggingFace {
    public static var huggingFace: HuggingFace { HuggingFace() }
}
