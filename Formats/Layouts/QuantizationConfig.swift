import StrictJSON

/// What `config.json` says about quantization, as far as layouts need it.
public struct QuantizationConfig: Sendable {
    /// `quantization_config` as it stands.
    public var json: JSONObject
    /// `quant_method`: "fp8", "compressed-tensors", ...
    public var method: String

    /// Arguments of one compressed-tensors group's weights.
    public struct Arguments: Sendable, Equatable {
        public var bits: Int
        public var isFloat: Bool
        /// "tensor", "channel", "group", "block"
        public var strategy: String
        public var groupSize: Int?
        public var symmetric: Bool
        public var block: [Int]?
    }
    public var groups: [Arguments]
    public var ignore: [String]
    /// `weight_block_size`, or the block structure of the first block-wise group.
    public var block: [Int]?
    /// `scale_fmt: ue8m0`: scales are powers of two.
    public var powerOfTwoScales: Bool

    /// Nil if the configuration has neither `quantization_config` nor MLX's `quantization`.
    public init?(config: JSONValue) {
        let found = config["quantization_config"] ?? config["text_config"]?["quantization_config"] ?? config["quantization"]
        guard let json = found?.object else { return nil }
        self.json = json
        method = json["quant_method"]?.string ?? (json["bits"] != nil && json["group_size"] != nil ? "mlx" : "")
        groups = (json["config_groups"]?.object?.members ?? []).compactMap { _, group in
            guard let weights = group["weights"]?.object, let bits = weights["num_bits"]?.int else { return nil }
            return Arguments(
                bits: bits, isFloat: weights["type"]?.string == "float", strategy: weights["strategy"]?.string ?? "tensor",
                groupSize: weights["group_size"]?.int.flatMap { $0 > 0 ? $0 : nil }, symmetric: weights["symmetric"]?.bool ?? true,
                block: Self.pair(weights["block_structure"]))
        }
        ignore = (json["ignore"]?.array ?? []).compactMap(\.string)
        block = Self.pair(json["weight_block_size"]) ?? groups.lazy.compactMap(\.block).first
        powerOfTwoScales = json["scale_fmt"]?.string == "ue8m0"
    }

    /// Width and group size of a module by MLX's configuration: its own entry, or the default.
    func mlxSettings(of module: String) -> (bits: Int, group: Int)? {
        let own = json[module]?.object ?? json
        guard let bits = own["bits"]?.int, let group = own["group_size"]?.int else { return nil }
        return (bits, group)
    }

    private static func pair(_ value: JSONValue?) -> [Int]? {
        guard let numbers = value?.array?.compactMap(\.int), numbers.count == 2, numbers.allSatisfy({ $0 > 0 && $0 <= 1 << 20 }) else {
            return nil
        }
        return numbers
    }
}
