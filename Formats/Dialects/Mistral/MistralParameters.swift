import Architectures
import StrictJSON

/// `params.json` of Mistral's releases, and the `config.json` that says the same.
///
/// Source: vllm-project/vllm:vllm/transformers_utils/configs/mistral.py (`adapt_config_dict`). Fields that neither knows keep their names on either
/// side: whoever reads them judges them.
package enum MistralParameters {
    package static let fileName = "params.json"

    /// Numbers under two names: at the top, and inside `moe`.
    private static let outer = [
        ("dim", "hidden_size"), ("n_layers", "num_hidden_layers"), ("n_heads", "num_attention_heads"), ("n_kv_heads", "num_key_value_heads"),
        ("hidden_dim", "intermediate_size"), ("norm_eps", "rms_norm_eps"), ("tied_embeddings", "tie_word_embeddings"),
    ]
    private static let inner = [
        ("num_experts", "n_routed_experts"), ("num_experts_per_tok", "num_experts_per_tok"), ("num_shared_experts", "n_shared_experts"),
        ("expert_hidden_dim", "moe_intermediate_size"), ("first_k_dense_replace", "first_k_dense_replace"), ("route_every_n", "moe_layer_freq"),
        ("routed_scale", "routed_scaling_factor"), ("num_expert_groups", "n_group"), ("num_expert_groups_per_tok", "topk_group"),
    ]
    private static let rotation = [
        ("factor", "factor"), ("original_max_position_embeddings", "original_max_position_embeddings"), ("beta", "beta_fast"),
        ("alpha", "beta_slow"),
    ]
    /// What `config.json` says of every such model, and `params.json` does not.
    private static let constants: JSONObject = [
        "architectures": .array([.string("Mistral4ForCausalLM")]), "model_type": .string("mistral4"), "hidden_act": .string("silu"),
        "scoring_func": .string("softmax"), "norm_topk_prob": .bool(true), "rope_interleave": .bool(true), "attention_bias": .bool(false),
        "torch_dtype": .string("bfloat16"),
    ]

    /// `config.json` of a model by its `params.json`.
    /// - Throws: ``DialectFailure`` if a field is there under both names and says two things.
    package static func config(of parameters: JSONObject) throws(DialectFailure) -> JSONObject {
        var config = constants
        var rest = parameters
        func move(_ pairs: [(String, String)], from object: JSONObject) -> JSONObject {
            var left = object
            for (name, field) in pairs {
                guard let value = left[name] else { continue }
                config[field] = value
                left[name] = nil
            }
            return left
        }
        rest = move(outer, from: rest)
        if config["num_key_value_heads"] == nil { config["num_key_value_heads"] = config["num_attention_heads"] }
        if config["tie_word_embeddings"] == nil { config["tie_word_embeddings"] = .bool(false) }
        if let moe = rest["moe"]?.object {
            let left = move(inner, from: moe)
            rest["moe"] = left.members.isEmpty ? nil : .object(left)
        }
        if let rotary = rotary(&rest) { config["rope_parameters"] = .object(rotary) }
        for (name, value) in rest.members {
            if let other = config[name], other != value, name != "torch_dtype" {
                throw DialectFailure(
                    tensor: fileName,
                    reason: "\(name) is \(value.text(pretty: false).prefix(60)), and the other fields make it \(other.text(pretty: false))")
            }
            config[name] = value
        }
        return config
    }

    /// The rotation; what does not fit together stays in `parameters`, where its reader refuses it.
    private static func rotary(_ parameters: inout JSONObject) -> JSONObject? {
        guard let yarn = parameters["yarn"]?.object else { return nil }
        var rotary: JSONObject = ["rope_type": .string("yarn")]
        if let theta = parameters["rope_theta"] { rotary["rope_theta"] = theta }
        for (name, field) in rotation { if let value = yarn[name] { rotary[field] = value } }
        // vLLM: with `apply_scale` the scores have YaRN's m^2, without it nothing; cosines and sines never.
        if let flag = yarn["apply_scale"], flag.bool == nil { return nil }
        if yarn["apply_scale"]?.bool == false {
            (rotary["attention_factor"], rotary["mscale_all_dim"]) = (.double(1), .double(0))
        } else {
            (rotary["mscale"], rotary["mscale_all_dim"]) = (.double(1), .double(1))
        }
        let known = Set(rotation.map(\.0) + ["apply_scale"])
        guard yarn.members.allSatisfy({ known.contains($0.key) }) else { return nil }
        if let growth = parameters["llama_4_scaling"]?.object {
            guard let beta = growth["beta"], growth["original_max_position_embeddings"] == yarn["original_max_position_embeddings"],
                growth.members.count == 2
            else { return nil }
            rotary["llama_4_scaling_beta"] = beta
            parameters["llama_4_scaling"] = nil
        }
        (parameters["yarn"], parameters["rope_theta"]) = (nil, nil)
        return rotary
    }

    /// `params.json` of a model by its `config.json`.
    package static func parameters(of config: JSONObject) throws(DialectFailure) -> JSONObject {
        func refuse(_ field: String, _ reason: String) -> DialectFailure { DialectFailure(tensor: "config.json", reason: "\(field) \(reason)") }
        var parameters = JSONObject()
        var rest = config
        for (name, field) in outer {
            if let value = rest[field], value != .null { parameters[name] = value }
            rest[field] = nil
        }
        var moe = JSONObject()
        for (name, field) in inner {
            if let value = rest[field], value != .null { moe[name] = value }
            rest[field] = nil
        }
        parameters["moe"] = .object(moe)
        for (name, value) in constants.members {
            if let said = rest[name], said != .null, said != value, !["architectures", "torch_dtype"].contains(name) {
                throw refuse(name, "is \(said.text(pretty: false)), and params.json has no word for it")
            }
            rest[name] = nil
        }
        if config["norm_topk_prob"] == nil { throw refuse("norm_topk_prob", "is missing, and readers of params.json take true") }
        rest["dtype"] = nil
        guard let rotary = ["rope_parameters", "rope_scaling"].lazy.compactMap({ config[$0]?.object }).first,
            (rotary["rope_type"] ?? rotary["type"])?.string == "yarn"
        else { throw refuse("rope_parameters", "is no YaRN, which params.json of Mistral Large 3 has") }
        (rest["rope_parameters"], rest["rope_scaling"]) = (nil, nil)
        let sayable = Set(
            rotation.map(\.1) + [
                "rope_type", "type", "rope_theta", "attention_factor", "mscale", "mscale_all_dim", "llama_4_scaling_beta", "partial_rotary_factor",
                "max_position_embeddings",
            ])
        if let field = rotary.members.first(where: { !sayable.contains($0.key) && $0.value != .null })?.key {
            throw refuse("rope_parameters.\(field)", "has no word in params.json")
        }
        var yarn = JSONObject()
        for (name, field) in rotation { if let value = rotary[field] { yarn[name] = value } }
        let scale = rotary["mscale_all_dim"]?.double ?? 0
        switch (scale, rotary["mscale"]?.double ?? 0, rotary["attention_factor"]?.double) {
        case (1, 1, nil): yarn["apply_scale"] = .bool(true)
        case (0, 0, 1): yarn["apply_scale"] = .bool(false)
        default: throw refuse("rope_parameters.mscale", "is none of those that params.json can say")
        }
        parameters["yarn"] = .object(yarn)
        if let theta = rotary["rope_theta"] ?? config["rope_theta"] { parameters["rope_theta"] = theta }
        if let beta = rotary["llama_4_scaling_beta"], beta != .null {
            parameters["llama_4_scaling"] = .object([
                "beta": beta, "original_max_position_embeddings": rotary["original_max_position_embeddings"] ?? .null,
            ])
        }
        // Null is what a field is that was left out; what `moe` held besides goes back into it.
        for (name, value) in rest.members where value != .null {
            if name == "moe", let left = value.object {
                for (name, value) in left.members where moe[name] == nil { moe[name] = value }
                parameters[name] = .object(moe)
            } else if parameters[name] != nil {
                throw refuse(name, "is a word of params.json, which other fields settle")
            } else {
                parameters[name] = value
            }
        }
        return parameters
    }
}
