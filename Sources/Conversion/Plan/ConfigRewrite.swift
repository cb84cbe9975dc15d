import Checkpoints
import Formats
import StrictJSON

/// `config.json` of the output, as vLLM, SGLang and transformers expect it.
struct ConfigRewrite {
    var config: JSONValue

    init(checkpoint: Checkpoint, weights: [PlannedWeight], unquantizedLinears: [String]) throws {
        config = checkpoint.config
        guard var object = config.object, weights.contains(where: { $0.road != .passthrough }) else { return }

        // Which consumer configurations the output needs, and which modules use each.
        var groups: [(configuration: ConsumerConfiguration, layout: String, modules: [String])] = []
        for weight in weights {
            guard let layout = weight.layout, !layout.isDense,
                let configuration = LayoutRegistry.families.lazy.compactMap({ $0.configuration(of: layout) }).first
            else { continue }
            let module = String(checkpoint.weights[weight.source].module)
            if let known = groups.firstIndex(where: { $0.configuration == configuration }) {
                groups[known].modules.append(module)
            } else {
                groups.append((configuration, layout.name, [module]))
            }
        }
        object["quantization_config"] = try Self.quantization(groups, unquantizedLinears).map(JSONValue.object)
        if var text = object["text_config"]?.object, text["quantization_config"] != nil {
            text["quantization_config"] = nil
            object["text_config"] = .object(text)
        }
        for key in ["torch_dtype", "dtype"] where object[key] != nil { object[key] = Self.denseType(weights) ?? object[key] }
        config = .object(object)
    }

    private static func quantization(
        _ groups: [(configuration: ConsumerConfiguration, layout: String, modules: [String])], _ unquantized: [String]
    ) throws -> JSONObject? {
        guard let first = groups.first else { return nil }
        if case .fp8(let block, let powerOfTwoScales) = first.configuration {
            guard groups.count == 1 else { throw ConversionFailure.mixedConfigurations(groups.map(\.layout)) }
            var object: JSONObject = [
                "activation_scheme": .string("dynamic"), "fmt": .string("e4m3"), "quant_method": .string("fp8"),
                "weight_block_size": .array(block.map(JSONValue.int)),
            ]
            if powerOfTwoScales { object["scale_fmt"] = .string("ue8m0") }
            // DeepSeek's own exceptions are wired into its consumers; others must be named.
            if !unquantized.isEmpty { object["modules_to_not_convert"] = .array(unquantized.map(JSONValue.string)) }
            return object
        }
        var described: [CompressedTensorsConfig.Group] = []
        for group in groups {
            guard case .compressedTensors(let format, let weights, let activations) = group.configuration else {
                throw ConversionFailure.mixedConfigurations(groups.map(\.layout))
            }
            described.append(
                CompressedTensorsConfig.Group(
                    format: format, weights: weights, activations: activations, targets: groups.count == 1 ? ["Linear"] : group.modules))
        }
        return CompressedTensorsConfig.json(groups: described, ignore: LayoutChoice.ignorePatterns + unquantized)
    }

    /// The dtype of the dense weights, if the conversion settles it.
    private static func denseType(_ weights: [PlannedWeight]) -> JSONValue? {
        guard let dense = weights.first(where: { ($0.road == .cast || $0.road == .dequantize) && $0.layout?.isDense == true })?.layout as? DenseLayout
        else { return nil }
        let names = ["BF16": "bfloat16", "F16": "float16", "F32": "float32"]
        return names[dense.type.rawValue].map(JSONValue.string)
    }
}
