import StrictJSON

/// Reads the fields of `config.json` one by one, remembers which, and refuses what nobody read and what may matter.
struct ConfigurationReader {
    let root: JSONValue

    /// A whole number that sizes are made of; nil where the field is missing or null.
    func optional(_ field: String) throws -> Int? {
        guard let value = root[field], value != .null else { return nil }
        guard let number = value.int, number >= 0, number < 1 << 24 else {
            throw ArchitectureFailure.badField(field, reason: "is no usable whole number")
        }
        return number
    }

    /// A whole number above 0.
    func required(_ field: String) throws -> Int {
        guard let number = try optional(field) else { throw ArchitectureFailure.missingField(field) }
        guard number > 0 else { throw ArchitectureFailure.badField(field, reason: "is 0") }
        return number
    }

    /// A number above 0 under one of two names; both may be there if they agree.
    func required(either first: String, _ second: String) throws -> Int {
        guard let number = try optional(first), let other = try optional(second) else {
            return try required(try optional(first) == nil && optional(second) != nil ? second : first)
        }
        guard number == other else { throw ArchitectureFailure.badField(first, reason: "is \(number), but \(second) is \(other)") }
        return try required(first)
    }

    func flag(_ field: String) throws -> Bool? {
        guard let value = root[field], value != .null else { return nil }
        guard let flag = value.bool else { throw ArchitectureFailure.badField(field, reason: "is neither true nor false") }
        return flag
    }

    func number(_ field: String) throws -> Double? {
        guard let value = root[field], value != .null else { return nil }
        guard let number = value.double, number.isFinite else { throw ArchitectureFailure.badField(field, reason: "is no number") }
        return number
    }

    /// A number whose default the readers do not agree about.
    func number(needed field: String) throws -> Double {
        guard let number = try number(field) else { throw ArchitectureFailure.missingField(field) }
        return number
    }

    /// How many of the first layers `mlp_layer_types` says are dense, and which others; nil where it says nothing.
    func denseLayerTypes(of layers: Int) throws -> (leading: Int, others: [Int])? {
        guard let types = root["mlp_layer_types"], types != .null else { return nil }
        let names = types.array ?? []
        guard names.count == layers, names.allSatisfy({ [.string("dense"), .string("sparse")].contains($0) }) else {
            throw ArchitectureFailure.badField("mlp_layer_types", reason: "does not say dense or sparse of each of \(layers) layers")
        }
        let leading = names.prefix { $0 == .string("dense") }.count
        return (leading, names.indices.dropFirst(leading).filter { names[$0] == .string("dense") })
    }

    /// The small number that norms add.
    func epsilon(_ field: String) throws -> Double {
        let epsilon = try number(field) ?? 1e-6
        guard epsilon >= 0, epsilon < 1 else { throw ArchitectureFailure.badField(field, reason: "is \(epsilon)") }
        return epsilon
    }

    /// Refuses a field that has another value than those that the forward pass has.
    func only(_ field: String, _ values: [JSONValue]) throws {
        guard let value = root[field], value != .null, !values.contains(value) else { return }
        throw ArchitectureFailure.badField(field, reason: "is \(value.text(pretty: false)), which this forward pass does not have")
    }

    /// Refuses fields that are not `read` by the architecture, are not known to be idle, and switch something on.
    func refuseOthers(than read: Set<String>) throws {
        for (field, value) in root.object?.members ?? [] where !read.contains(field) && !Self.idleFields.contains(field) {
            guard !Self.isAtRest(value) else { continue }
            throw ArchitectureFailure.badField(
                field,
                reason: "is \(value.text(pretty: false).prefix(60)), and what it does to the arithmetic is not known here; remove it if nothing")
        }
    }

    /// Whether a field's value switches nothing on.
    private static func isAtRest(_ value: JSONValue) -> Bool {
        switch value {
        case .null, .bool(false): true
        case .object(let object): object.members.isEmpty
        case .array(let elements): elements.isEmpty
        case .string(let text): text.isEmpty
        case .number, .bool(true): false
        }
    }

    /// Fields that say nothing about the arithmetic of a trained model: names and versions, number types and quantization (which the tensors tell),
    /// special tokens, training, generation, and how a program divides its work. Sources: huggingface/transformers:configuration_utils.py
    /// (`PreTrainedConfig`) and models/deepseek_v2, deepseek_v3; deepseek-ai/DeepSeek-V3:configuration_deepseek.py.
    private static let idleFields: Set<String> = [
        "architectures", "auto_map", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "torch_dtype", "dtype",
        "quantization_config", "compression_config", "quantization", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
        "decoder_start_token_id", "use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "aux_loss_alpha", "seq_aux",
        "pretraining_tp", "ep_size", "output_router_logits", "router_aux_loss_coef", "head_dim", "qk_head_dim", "num_local_experts",
        "num_mtp_layers", "return_dict", "output_attentions", "output_hidden_states", "problem_type", "id2label", "label2id", "finetuning_task",
        "task_specific_params", "tokenizer_class", "chunk_size_feed_forward", "_attn_implementation", "attn_implementation",
        "_attn_implementation_autoset", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
        "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "num_return_sequences",
        "encoder_no_repeat_ngram_size", "no_repeat_ngram_size", "remove_invalid_values", "use_bfloat16", "torchscript", "mlp_bias",
        "unsloth_version", "unsloth_fixed", "language_model_only", "is_decoder", "model_max_length",
    ]
}
