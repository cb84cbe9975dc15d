import StrictJSON

/// What `config.json` says about quantization, as far as layouts need it.
package struct QuantizationConfig: Sendable {
    /// `quantization_config` as it stands.
    package var json: JSONObject
    /// `quant_method`: "fp8", "compressed-tensors", ...
    package var method: String

    /// Arguments of one compressed-tensors group's weights.
    package struct Arguments: Sendable, Equatable {
        package var bits: Int
        package var isFloat: Bool
        /// "tensor", "channel", "group", "block"
        package var strategy: String
        package var groupSize: Int?
        package var symmetric: Bool
        package var block: [Int]?
    }
    package var groups: [Arguments]
    package var ignore: [String]
    /// `weight_block_size`, or the block structure of the first block-wise group.
    package var block: [Int]?
    /// `scale_fmt: ue8m0`: scales are powers of two.
    package var powerOfTwoScales: Bool

    /// `quant_method` as layouts know it, and what keeps Recast from reading a checkpoint that is described so.
    package var obstacle: String?

    /// - Parameter json: a `quantization_config`, or what says the same in another file, by the same keys.
    package init(_ json: JSONObject) {
        self.json = json
        method = Self.method(json)
        let described = (json["config_groups"]?.object?.members ?? []).map(\.value)
        groups = described.compactMap { group in
            guard let weights = group["weights"]?.object, let bits = weights["num_bits"]?.int else { return nil }
            return Arguments(
                bits: bits, isFloat: weights["type"]?.string == "float", strategy: weights["strategy"]?.string ?? "tensor",
                groupSize: weights["group_size"]?.int.flatMap { $0 > 0 ? $0 : nil },
                symmetric: (weights["symmetric"] ?? .null) == .null || weights["symmetric"] == .bool(true),
                block: Self.pair(weights["block_structure"]))
        }
        ignore = (json["ignore"]?.array ?? []).compactMap(\.string)
        block = Self.pair(json["weight_block_size"]) ?? groups.lazy.compactMap(\.block).first
        powerOfTwoScales = json["scale_fmt"]?.string == "ue8m0"
        obstacle = Self.obstacle(json, method, formats: [json["format"]] + described.map { $0["format"] })
    }

    /// AutoRound names the order of its codes apart from its method; MLX has no method at all.
    private static func method(_ json: JSONObject) -> String {
        let name = json["quant_method"]?.string ?? (json["bits"] != nil && json["group_size"] != nil ? "mlx" : "")
        guard name == "auto-round" || name == "intel/auto-round" else { return name }
        switch json["packing_format"]?.string {
        case "auto_round:auto_gptq": return "gptq"
        case "auto_round:auto_awq": return "awq"
        default: return name
        }
    }

    /// Methods whose tensors some layout here reads.
    static let readMethods: Set<String> = [
        "", "awq", "blockwise_int8", "compressed-tensors", "fp8", "gptq", "mlx", "modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8",
        "mxfp4", "mxfp8", "quark", "w4afp8", "w8a8_int8",
    ]
    /// Formats of compressed-tensors that are read; the others hold sparse or marlin-ordered codes.
    static let readFormats: Set<String> = [
        "pack-quantized", "float-quantized", "int-quantized", "naive-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
        "mixed-precision", "dense",
    ]

    private static func obstacle(_ json: JSONObject, _ method: String, formats: [JSONValue?]) -> String? {
        if method.hasSuffix("auto-round") {
            return "the packing_format \(json["packing_format"]?.string ?? "of none") of quant_method \"\(method)\" is not read"
        }
        guard readMethods.contains(method) else { return "the quant_method \"\(method)\" is not read" }
        switch method {
        case "gptq":
            let form = json["checkpoint_format"]?.string ?? "gptq"
            if form != "gptq", form != "gptq_v2" { return "the checkpoint_format \"\(form)\" of GPTQ is not read" }
            if json["is_marlin_format"]?.bool == true || json["format"]?.string?.contains("marlin") == true {
                return "GPTQ codes in Marlin's order are not read"
            }
            if let type = json["pack_dtype"]?.string, type != "int32" { return "GPTQ codes packed into \(type) are not read" }
        case "compressed-tensors":
            if let form = formats.lazy.compactMap({ $0?.string }).first(where: { !readFormats.contains($0) }) {
                return "the format \"\(form)\" of compressed-tensors is not read"
            }
            if let transforms = json["transform_config"]?.object, !transforms.members.isEmpty {
                return "transform_config rotates the weights, which is not undone here"
            }
        default: break
        }
        return nil
    }

    /// Facts that two descriptions of one checkpoint must agree on, as far as both state them.
    package func contradiction(with other: QuantizationConfig) -> String? {
        if !method.isEmpty, !other.method.isEmpty, method.split(separator: "_")[0] != other.method.split(separator: "_")[0] {
            return "quant_method is \"\(method)\" at one and \"\(other.method)\" at the other"
        }
        for key in [
            "bits", "group_size", "sym", "desc_act", "checkpoint_format", "quant_algo", "weight_block_size", "zero_point", "version", "scale_fmt",
        ] {
            guard let mine = json[key], let theirs = other.json[key], mine != .null, theirs != .null else { continue }
            let (a, b) = (mine.text(pretty: false).lowercased(), theirs.text(pretty: false).lowercased())
            if a != b { return "\(key) is \(a) at one and \(b) at the other" }
        }
        return nil
    }

    /// Width and group size of a module by MLX's configuration: its own entry, or the default.
    func mlxSettings(of module: String) -> (bits: Int, group: Int)? {
        let own = json[module]?.object ?? json
        guard let bits = own["bits"]?.int, let group = own["group_size"]?.int else { return nil }
        return (bits, group)
    }

    private static func pair(_ value: JSONValue?) -> [Int]? {
        guard let array = value?.array, array.count == 2, case let numbers = array.compactMap(\.int), numbers.count == 2,
            numbers.allSatisfy({ $0 > 0 && $0 <= 1 << 20 })
        else {
            return nil
        }
        return numbers
    }
}
