import Formats
import StrictJSON

/// Where releases describe their quantization: in config.json, at its top or inside the configuration of a part, or in a file beside it.
///
/// Sources: vllm-project/vllm:vllm/model_executor/model_loader/weight_utils.py (`get_quant_config`), the `get_config_filenames` of each
/// method under layers/quantization, huggingface/transformers:quantizers/auto.py, intel/auto-round (`quantization_config.json`).
package struct QuantizationDescription: Sendable {
    /// "config.json: text_config.quantization_config", "hf_quant_config.json"
    package var place: String
    package var config: QuantizationConfig

    static let keys = ["quantization_config", "compression_config", "quantization"]
    /// Files that describe a quantization and nothing else.
    package static let files = [
        "hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json", "compression_config.json",
        "quant_model_description.json",
    ]
    /// Mistral's own configuration, of which one entry describes a quantization.
    package static let nativeFile = "params.json"

    /// Whether a value under one of ``keys`` describes a quantization: `quantization` alone is a common word.
    static func isDescription(_ key: String, _ value: JSONValue) -> Bool {
        guard let object = value.object, !object.members.isEmpty else { return false }
        return key != "quantization" || object["bits"] != nil || object["quant_method"] != nil || object["qformat_weight"] != nil
    }

    /// Every description, config.json's first; those that are null or empty are none.
    static func all(config: JSONValue, file: (String) throws -> JSONObject?) throws -> [QuantizationDescription] {
        var found: [QuantizationDescription] = []
        func search(_ object: JSONObject, _ path: String) throws {
            for (key, value) in object.members {
                if keys.contains(key), isDescription(key, value), let json = value.object {
                    found.append(QuantizationDescription(place: "config.json: \(path)\(key)", config: QuantizationConfig(json)))
                } else if keys.prefix(2).contains(key), value != .null, value.object == nil {
                    throw CheckpointFailure.unreadable(
                        path: "config.json", reason: "\(path)\(key) is \(value.text(pretty: false).prefix(60)), not an object")
                } else if !keys.contains(key), let inner = value.object {
                    try search(inner, path + key + ".")
                }
            }
        }
        if let object = config.object { try search(object, "") }
        for name in files + [nativeFile] {
            guard let json = try file(name), let canonical = canonical(json, of: name) else { continue }
            found.append(QuantizationDescription(place: name, config: QuantizationConfig(canonical)))
        }
        return found
    }

    /// What a file says, by the keys of `quantization_config`.
    private static func canonical(_ json: JSONObject, of name: String) -> JSONObject? {
        switch name {
        case "hf_quant_config.json":
            guard var inner = json["quantization"]?.object else { return nil }
            if let excluded = inner["exclude_modules"] {
                inner["exclude_modules"] = nil
                inner["ignore"] = excluded
            }
            if inner["quant_method"] == nil { inner["quant_method"] = .string("modelopt") }
            return inner
        case "quantize_config.json":
            var inner = json
            if inner["quant_method"] == nil { inner["quant_method"] = .string("gptq") }
            return inner
        case "quant_config.json":
            var inner = json
            for (old, new) in [("w_bit", "bits"), ("q_group_size", "group_size")] {
                guard let value = inner[old] else { continue }
                inner[old] = nil
                inner[new] = value
            }
            if inner["quant_method"] == nil { inner["quant_method"] = .string("awq") }
            return inner
        case "quant_model_description.json":
            var inner = json
            inner["quant_method"] = .string("ascend")
            return inner
        case nativeFile:
            guard let inner = json["quantization"]?.object, !inner.members.isEmpty else { return nil }
            // Names and blocks of the tensors say the rest.
            return ["qformat_weight": inner["qformat_weight"] ?? .null, "quant_method": .string("")]
        default: return json
        }
    }

    /// All of them as one: the first, and what it does not say by the others.
    /// - Throws: ``CheckpointFailure/descriptions(_:_:reason:)`` if two contradict each other.
    static func merged(_ all: [QuantizationDescription]) throws -> QuantizationConfig? {
        guard let first = all.first else { return nil }
        var json = first.config.json
        for other in all.dropFirst() {
            for known in all where known.place != other.place {
                // NVIDIA's mixed releases say fp8 in config.json and the rest in hf_quant_config.json.
                let isOneMaker = [known, other].contains { $0.config.json["producer"]?["name"]?.string == "modelopt" }
                if isOneMaker, [known, other].contains(where: { $0.place == "hf_quant_config.json" }) { continue }
                if let reason = known.config.contradiction(with: other.config) {
                    throw CheckpointFailure.descriptions(known.place, other.place, reason: reason)
                }
            }
            for (key, value) in other.config.json.members where json[key] == nil || json[key] == .null || json[key] == .string("") {
                json[key] = value
            }
        }
        return QuantizationConfig(json)
    }

    /// `object` without any description of a quantization, wherever in it.
    package static func removed(from object: JSONObject) -> JSONObject {
        var result = object
        for (key, value) in object.members {
            if keys.contains(key), value == .null || isDescription(key, value) || key == "quantization" && value.string != nil {
                result[key] = nil
            } else if let inner = value.object {
                result[key] = .object(removed(from: inner))
            }
        }
        return result
    }
}
