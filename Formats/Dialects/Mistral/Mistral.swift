import Architectures
import StrictJSON
import Tensors

/// The names of Mistral's own releases (Mistral Large 3): `consolidated-*.safetensors` beside `params.json`.
///
/// Source: vllm-project/vllm:vllm/model_executor/models/mistral_large_3.py, whose names these are mapped to, and
/// vllm/transformers_utils/configs/mistral.py.
package struct Mistral: Dialect {
    package init() {}

    package var name: String { "Mistral" }
    package var readers: String { "vLLM and SGLang" }

    private static let modules: [ModuleRole: String] = [
        .embedding: "tok_embeddings", .finalNorm: "norm", .head: "output", .inputNorm: "layers.#.attention_norm",
        .postAttentionNorm: "layers.#.ffn_norm", .query: "layers.#.attention.wq", .queryDown: "layers.#.attention.wq_a",
        .queryLatentNorm: "layers.#.attention.q_a_norm", .queryUp: "layers.#.attention.wq_b", .keyValueDown: "layers.#.attention.wkv_a_with_mqa",
        .keyValueNorm: "layers.#.attention.kv_a_norm", .keyValueUp: "layers.#.attention.wkv_b", .output: "layers.#.attention.wo",
        .gate: "layers.#.feed_forward.w1", .down: "layers.#.feed_forward.w2", .up: "layers.#.feed_forward.w3", .router: "layers.#.gate",
        .expertGate: "layers.#.experts.#.w1", .expertDown: "layers.#.experts.#.w2", .expertUp: "layers.#.experts.#.w3",
        .sharedGate: "layers.#.shared_experts.w1", .sharedDown: "layers.#.shared_experts.w2", .sharedUp: "layers.#.shared_experts.w3",
    ]
    private static let table = NameTable(modules)
    package static let family = Architecture.mistral4

    // MARK: To Mistral's names

    package func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece] {
        guard model.roles.architecture == Self.family else {
            throw DialectFailure(
                tensor: weight.name,
                reason: "Mistral's names are for Mistral Large 3, not for the architecture \(model.roles.architecture?.name ?? "unknown")")
        }
        guard Self.storedModule(weight.module) != nil || Self.family.carries(weight.name) else {
            throw DialectFailure(tensor: weight.name, reason: "has no name in Mistral's releases")
        }
        return [StoredPiece(module: weight.module)]
    }

    package func storedName(of tensor: String, isStacked: Bool) -> String {
        guard let module = Self.storedModule(String(WeightName.module(tensor))) else { return tensor }
        return module + "." + WeightName.leaf(tensor)
    }

    private static func storedModule(_ module: String) -> String? { family.place(of: module).flatMap(table.module) }

    package func fileName(_ number: Int, of count: Int) -> String? {
        count == 1 ? "\(Self.stem).safetensors" : "\(Self.stem)-\(fiveDigits(number + 1))-of-\(fiveDigits(count)).safetensors"
    }

    package var indexName: String? { Self.stem + ".safetensors.index.json" }

    private static let stem = "consolidated"

    /// Whether files have the names of a release.
    package static func areFiles(_ names: [String]) -> Bool { names.allSatisfy { $0.hasPrefix(stem) } }

    package func configurationFile(_ config: JSONObject) throws -> (name: String, json: JSONObject) {
        // What cannot be run here is not made to look as if it could be.
        _ = try ModelConfiguration(config: .object(config))
        return (MistralParameters.fileName, try MistralParameters.parameters(of: config))
    }

    // MARK: Back

    /// Whether these are the tensors of a model under Mistral's names that is read: one with latent attention.
    package static func isNative(_ tensors: [StoredTensor]) -> Bool {
        // The projection that no other dialect calls so. Of hundreds of thousands of names nearly all are told by their first word.
        tensors.contains { $0.name.hasPrefix("layers.") && canonicalPlace(of: $0.name)?.role == .keyValueDown }
    }

    /// The tensors under their canonical names. Scales of a whole tensor have Mistral's names in some releases, and compressed-tensors' in others.
    package static func canonical(_ tensors: [StoredTensor]) -> [StoredTensor] {
        tensors.map { tensor in
            guard let place = canonicalPlace(of: tensor.name), let module = family.module(place.role, layer: place.layer, expert: place.expert) else {
                return tensor
            }
            let leaf = String(WeightName.leaf(tensor.name))
            var renamed = tensor
            renamed.name = module + "." + (leaves[leaf] ?? leaf)
            return renamed
        }
    }

    private static let leaves = ["qscale_weight": "weight_scale", "qscale_act": "input_scale"]

    private static func canonicalPlace(of tensor: String) -> ModulePlace? { table.place(of: String(WeightName.module(tensor))) }
}
