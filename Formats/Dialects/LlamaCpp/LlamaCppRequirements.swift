import Architectures
import Tensors

/// What llama.cpp's loader asks of a GGUF file beside its tensors.
///
/// Source: ggml-org/llama.cpp:src/llama-model.cpp (`load_hparams`), src/models, src/llama-vocab.cpp. Its bounds are those of llama-hparams.h.
package struct LlamaCppRequirements {
    private let entries: [GGUFEntry]
    private let architecture: LlamaCppArchitecture?
    private let name: String

    package init(_ entries: [GGUFEntry]) {
        self.entries = entries
        name = entries["general.architecture"]?.string ?? ""
        architecture = LlamaCppArchitecture.called(name)
    }

    private func own(_ key: String) -> GGUFValue? { entries[name + "." + key] }
    /// A number that sizes are made of; nil where there is none such.
    private func size(_ key: String) -> Int? { own(key)?.int.flatMap { (0..<1 << 31).contains($0) ? $0 : nil } }

    /// Keys without which it does not load the model; nil if none is missing.
    package func missingKeys() -> String? {
        guard let architecture else { return "general.architecture is \"\(name)\", whose keys are not known here" }
        var keys = ["block_count", "context_length", "embedding_length", "attention.head_count", "attention.layer_norm_rms_epsilon"]
        if architecture.isLatent {
            keys += ["attention.kv_lora_rank", "expert_feed_forward_length", "expert_shared_count"]
            // Models of so many layers it takes for those without a latent of queries.
            let layers = (size("block_count") ?? 0) - (size("nextn_predict_layers") ?? 0)
            if ![26, 27].contains(layers) { keys.append("attention.q_lora_rank") }
        }
        if (size("expert_count") ?? 0) > 0 { keys.append("expert_used_count") }
        let missing = keys.filter { own($0) == nil }
        return missing.isEmpty ? nil : "\(missing.map { name + "." + $0 }.joined(separator: ", ")) \(missing.count > 1 ? "are" : "is") missing"
    }

    /// The first size that its loader refuses, or that the tensors contradict; nil if all can be.
    /// - Parameter shape: `[rows, columns]` of the embedding.
    package func badSize(embedding shape: [Int]?) -> String? {
        func outside(_ key: String, _ range: ClosedRange<Int>) -> String? {
            guard let entry = own(key), !(size(key).map(range.contains) ?? false) else { return nil }
            return "\(name).\(key) is \(entry.int.map(String.init) ?? "no whole number"), and \(range.lowerBound) to \(range.upperBound) can be"
        }
        let sizes = [
            "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv", "attention.kv_lora_rank",
            "attention.q_lora_rank", "expert_feed_forward_length",
        ]
        if let found = sizes.lazy.compactMap({ outside($0, 1...1 << 24) }).first { return found }
        guard let epsilon = own("attention.layer_norm_rms_epsilon")?.double, epsilon.isFinite, epsilon >= 0 else {
            return "\(name).attention.layer_norm_rms_epsilon is no number that norms can add"
        }
        let experts = size("expert_count") ?? 0
        let bounds =
            outside("block_count", 1...512) ?? outside("nextn_predict_layers", 0...512) ?? outside("expert_count", 0...1024)
            ?? (experts > 0 ? outside("expert_used_count", 1...min(experts, 1024)) : nil)
        if let bounds { return bounds }
        if let found = outside("expert_group_count", 0...1024) { return found }
        if let groups = size("expert_group_count"), groups > 1 {
            guard experts % groups == 0 else { return "\(experts) experts do not make \(groups) groups" }
            if let found = outside("expert_group_used_count", 1...groups - 1) { return found }
        }
        if let heads = size("attention.head_count"), let keys = size("attention.head_count_kv"), heads % keys != 0 {
            return "\(heads) heads of queries do not share \(keys) of keys"
        }
        guard let shape, shape.count == 2 else { return "there is no matrix token_embd.weight" }
        if let width = size("embedding_length"), width != shape[1] {
            return "\(name).embedding_length is \(width), and token_embd.weight has \(shape[1]) columns"
        }
        return nil
    }

    /// What is wrong with the tokenizer inside; nil if llama.cpp can make one of it.
    /// - Parameter rows: of the embedding.
    package func badTokenizer(rows: Int?) -> String? {
        guard let model = entries["tokenizer.ggml.model"]?.string else { return "tokenizer.ggml.model is missing" }
        guard let tokens = entries["tokenizer.ggml.tokens"]?.strings, !tokens.isEmpty else { return "tokenizer.ggml.tokens is missing or empty" }
        if let rows, rows != tokens.count { return "tokenizer.ggml.tokens has \(tokens.count) entries, and token_embd.weight \(rows) rows" }
        if model == "gpt2", entries["tokenizer.ggml.merges"]?.strings == nil { return "tokenizer.ggml.merges is missing" }
        if let types = entries["tokenizer.ggml.token_type"]?.ints, types.count != tokens.count {
            return "tokenizer.ggml.token_type has \(types.count) entries for \(tokens.count) tokens"
        }
        for key in ["bos_token_id", "eos_token_id", "padding_token_id", "unknown_token_id"] {
            if let token = entries["tokenizer.ggml." + key]?.int, !tokens.indices.contains(token) {
                return "tokenizer.ggml.\(key) is \(token), and there are \(tokens.count) tokens"
            }
        }
        return nil
    }
}
