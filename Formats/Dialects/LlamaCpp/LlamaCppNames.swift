import Architectures

/// llama.cpp's names of modules by role (llama.cpp:gguf-py/gguf/constants.py `TENSOR_NAMES`).
enum LlamaCppNames {
    /// Outside the layers.
    static let outer: [ModuleRole: String] = [.embedding: "token_embd", .finalNorm: "output_norm", .head: "output"]

    /// Behind `blk.N.`.
    static let inner: [ModuleRole: String] = [
        .inputNorm: "attn_norm", .postAttentionNorm: "ffn_norm", .query: "attn_q", .key: "attn_k", .value: "attn_v", .output: "attn_output",
        .queryHeadNorm: "attn_q_norm", .keyHeadNorm: "attn_k_norm", .queryDown: "attn_q_a", .queryLatentNorm: "attn_q_a_norm", .queryUp: "attn_q_b",
        .keyValueDown: "attn_kv_a_mqa", .keyValueNorm: "attn_kv_a_norm", .gate: "ffn_gate", .up: "ffn_up", .down: "ffn_down",
        .expertGate: "ffn_gate_exps", .expertUp: "ffn_up_exps", .expertDown: "ffn_down_exps", .sharedGate: "ffn_gate_shexp",
        .sharedUp: "ffn_up_shexp", .sharedDown: "ffn_down_shexp", .router: "ffn_gate_inp", .sharedExpertSwitch: "ffn_gate_inp_shexp",
        .indexerQuery: "indexer.attn_q_b", .indexerKey: "indexer.attn_k", .indexerKeyNorm: "indexer.k_norm", .indexerHeadWeights: "indexer.proj",
        .predictionJoin: "nextn.eh_proj", .predictionEmbedding: "nextn.embed_tokens", .predictionEmbeddingNorm: "nextn.enorm",
        .predictionStateNorm: "nextn.hnorm", .predictionHead: "nextn.shared_head_head", .predictionNorm: "nextn.shared_head_norm",
    ]

    /// The two halves of a latent's projection: the keys' part of each head transposed, the values' part as it is.
    static let halves = ["attn_k_b", "attn_v_b"]

    /// A latent's projection in files of before it was split.
    static let wholeLatent = "attn_kv_b"

    /// The bias that takes part in the choice of experts only.
    static let selectionBias = "exp_probs_b"

    /// Logits of the heads that stand for no token.
    static let sinks = "attn_sinks"

    /// What Llama 3's rotation divides the frequencies by, a factor a pair.
    static let rotaryFactors = "rope_freqs.weight"

    /// All names behind `blk.N.`, those of single architectures among them.
    private static let roles = Dictionary(
        (inner.map { ($0.value, $0.key) } + LlamaCppArchitecture.known.flatMap(\.names).map { ($0.value, $0.key) })
            + [(wholeLatent, ModuleRole.keyValueUp)],
        uniquingKeysWith: { first, _ in first })
    private static let outerRoles = Dictionary(uniqueKeysWithValues: outer.map { ($0.value, $0.key) })

    /// What a stored tensor is: the module's place (nil for a half of a latent's projection and the selection bias), the layer, the name behind
    /// it, and the leaf.
    static func parse(_ tensor: String) -> (place: ModulePlace?, layer: Int?, name: String, leaf: String)? {
        let words = tensor.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        if words.count == 2 {
            return outerRoles[words[0]].map { (ModulePlace($0), nil, words[0], words[1]) }
        }
        guard words.count >= 4, words[0] == "blk", let layer = Int(words[1]), layer >= 0 else { return nil }
        let name = words[2..<words.count - 1].joined(separator: ".")
        return (roles[name].map { ModulePlace($0, layer: layer) }, layer, name, words[words.count - 1])
    }
}
