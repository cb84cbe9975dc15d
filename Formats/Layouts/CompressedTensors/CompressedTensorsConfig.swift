import StrictJSON

/// The `quantization_config` of compressed-tensors, as version 0.19 writes it and vLLM, SGLang and transformers read it.
package enum CompressedTensorsConfig {
    /// Who the layouts were checked against.
    static let peers = LayoutTarget.Peers(encoder: "llm-compressor 0.14", readers: "compressed-tensors 0.19, transformers 5.24")

    /// `QuantizationArgs` of weights or activations.
    package static func arguments(
        bits: Int, type: String, strategy: String, groupSize: Int? = nil, symmetric: Bool = true, block: [Int]? = nil, dynamic: Bool = false,
        scaleType: String? = nil
    ) -> JSONObject {
        [
            "actorder": .null,
            "block_structure": block.map { .array($0.map(JSONValue.int)) } ?? .null,
            "dynamic": .bool(dynamic),
            "group_size": groupSize.map(JSONValue.int) ?? .null,
            "num_bits": .int(bits),
            "observer": .null,
            "observer_kwargs": .object([:]),
            "scale_dtype": scaleType.map(JSONValue.string) ?? .null,
            "strategy": .string(strategy),
            "symmetric": .bool(symmetric),
            "type": .string(type),
            "zp_dtype": symmetric ? .null : .string("torch.int8"),
        ]
    }

    /// One scheme and the modules it applies to: `["Linear"]`, names, or `re:` patterns.
    package struct Group {
        package var format: String
        package var weights: JSONObject
        package var activations: JSONObject?
        package var targets: [String]

        package init(format: String, weights: JSONObject, activations: JSONObject?, targets: [String]) {
            self.format = format
            self.weights = weights
            self.activations = activations
            self.targets = targets
        }
    }

    /// The whole object. Groups of different formats make the format "mixed-precision".
    package static func json(groups: [Group], ignore: [String]) -> JSONObject {
        var named = JSONObject()
        for (index, group) in groups.enumerated() {
            named["config_group_\(index)"] = .object([
                "format": .string(group.format),
                "input_activations": group.activations.map(JSONValue.object) ?? .null,
                "output_activations": .null,
                "targets": .array(group.targets.map(JSONValue.string)),
                "weights": .object(group.weights),
            ])
        }
        let formats = Set(groups.map(\.format))
        return [
            "config_groups": .object(named),
            "format": .string(formats.count == 1 ? groups[0].format : "mixed-precision"),
            "global_compression_ratio": .null,
            "ignore": .array(ignore.map(JSONValue.string)),
            "kv_cache_scheme": .null,
            "quant_method": .string("compressed-tensors"),
            "quantization_status": .string("compressed"),
            "transform_config": .object([:]),
            "version": .string("0.19.0"),
        ]
    }
}
