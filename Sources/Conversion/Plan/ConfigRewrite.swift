import Architectures
import Checkpoints
import Formats
import StrictJSON

/// `config.json` of the output, as its readers expect it.
struct ConfigRewrite {
    var config: JSONValue
    /// Other files that describe the quantization.
    var sideFiles: [(name: String, json: JSONObject)] = []

    private let ignorePatterns: [String]
    private let head: String
    /// Modules that readers of `quant_method: fp8` must be told of although their role says it.
    private let namedInFP8: [String]
    /// Routers that readers of lists without patterns must be told of.
    private let routers: [String]
    /// Layers from this one on predict further tokens.
    private let layers: Int

    private struct Group {
        var configuration: ConsumerConfiguration
        var layout: String
        var modules: [String]
    }

    /// - Parameter keepsDescription: whether codes and scales stay what they are, so that what describes them does too.
    init(
        checkpoint: Checkpoint, weights: [PlannedWeight], unquantizedLinears: [String], exemptLinears: [String], dropsMTP: Bool,
        keepsDescription: Bool
    ) throws {
        config = checkpoint.config
        ignorePatterns = checkpoint.roles.ignorePatterns
        head = checkpoint.roles.head
        namedInFP8 = checkpoint.roles.wiresFP8Exemptions ? [] : exemptLinears
        let roles = checkpoint.roles
        routers = roles.architecture?.listsRouters == true ? exemptLinears.filter { roles.place(of: $0)?.role == .router } : []
        layers = checkpoint.languageConfig["num_hidden_layers"]?.int ?? .max
        guard var object = config.object else { return }
        if dropsMTP, object["num_nextn_predict_layers"] != nil { object["num_nextn_predict_layers"] = .int(0) }
        config = .object(object)
        guard !keepsDescription else { return }

        // Which consumer configurations the output needs, and which modules use each.
        var groups: [Group] = []
        var places: [String: Int] = [:]
        for weight in weights {
            guard let layout = weight.layout, !layout.isDense else { continue }
            // Layouts of one name share a configuration but for the types of their scales.
            if places[layout.name] == nil {
                guard let configuration = LayoutRegistry.families.lazy.compactMap({ $0.configuration(of: layout) }).first else { continue }
                places[layout.name] = groups.firstIndex { $0.configuration == configuration } ?? groups.count
                if places[layout.name] == groups.count { groups.append(Group(configuration: configuration, layout: layout.name, modules: [])) }
            }
            if let known = places[layout.name], groups[known].modules.last != weight.module { groups[known].modules.append(weight.module) }
        }
        object = QuantizationDescription.removed(from: object)
        if let first = groups.first, case .mlx = first.configuration {
            let quantization = try JSONValue.object(Self.mlx(groups, first))
            object["quantization"] = quantization
            // Its loader looks here for a method unless `quantization` is there too; the field's tools read it.
            object["quantization_config"] = quantization
        } else {
            object["quantization_config"] = try quantization(groups, unquantizedLinears).map(JSONValue.object)
        }
        if let type = Self.denseType(weights) { object = Self.retyped(object, type, depth: 0) }
        config = .object(object)
    }

    /// Every dtype in the configuration, those of its parts included.
    private static func retyped(_ object: JSONObject, _ type: JSONValue, depth: Int) -> JSONObject {
        var result = object
        for (key, value) in object.members {
            if ["torch_dtype", "dtype"].contains(key), value.string != nil || value == .null {
                result[key] = type
            } else if let inner = value.object {
                result[key] = .object(retyped(inner, type, depth: depth + 1))
            }
        }
        return result
    }

    private mutating func quantization(_ groups: [Group], _ unquantized: [String]) throws -> JSONObject? {
        guard let first = groups.first else { return nil }
        let names = groups.map(\.layout)
        if groups.contains(where: { $0.configuration == .w4afp8 }) {
            let others = groups.filter { $0.configuration != .w4afp8 }
            guard others.allSatisfy({ if case .fp8 = $0.configuration { true } else { false } }) else {
                throw ConversionFailure.mixedConfigurations(names)
            }
            var object: JSONObject = ["activation_scheme": .string("dynamic"), "group_size": .int(128), "quant_method": .string("w4afp8")]
            if case .fp8(let block, _)? = others.first?.configuration { object["weight_block_size"] = .array(block.map(JSONValue.int)) }
            if !unquantized.isEmpty { object["modules_to_not_convert"] = .array(unquantized.map(JSONValue.string)) }
            return object
        }
        switch first.configuration {
        case .fp8(let block, let powerOfTwoScales):
            guard groups.count == 1 else { throw ConversionFailure.mixedConfigurations(names) }
            var object: JSONObject = [
                "activation_scheme": .string("dynamic"), "fmt": .string("e4m3"), "quant_method": .string("fp8"),
                "weight_block_size": .array(block.map(JSONValue.int)),
            ]
            if powerOfTwoScales { object["scale_fmt"] = .string("ue8m0") }
            // DeepSeek's own exceptions are wired into its consumers; others must be named.
            let named = unquantized + namedInFP8.filter { !unquantized.contains($0) }
            if !named.isEmpty { object["modules_to_not_convert"] = .array(named.map(JSONValue.string)) }
            return object
        case .uniform(let method):
            guard groups.count == 1 else { throw ConversionFailure.mixedConfigurations(names) }
            return uniform(method, unquantized)
        case .compressedTensors: return try Self.compressedTensors(groups, unquantized, ignorePatterns)
        case .w4afp8, .mlx: throw ConversionFailure.mixedConfigurations(names)
        }
    }

    private mutating func uniform(_ method: UniformMethod, _ unquantized: [String]) -> JSONObject {
        var object = method.json
        if let key = method.exemptions {
            // The output head is no linear layer to some readers and one to others.
            var named = [head] + unquantized.filter { $0 != head } + routers.filter { !unquantized.contains($0) }
            if method.leavesPrediction { named = collapsed(named) }
            object[key] = .array(named.map(JSONValue.string))
        }
        if method.hasDynamicExemptions, !unquantized.isEmpty {
            var dynamic = JSONObject()
            for module in unquantized { dynamic["-:^" + module.replacing(".", with: "\\.") + "$"] = .object([:]) }
            object["dynamic"] = .object(dynamic)
        }
        if let name = method.sideFile {
            var inner = JSONObject()
            for (key, value) in object.members where key != "quant_method" && key != "producer" {
                inner[key == method.exemptions ? "exclude_modules" : key] = value
            }
            sideFiles.append((name, ["producer": object["producer"] ?? .object([:]), "quantization": .object(inner)]))
        }
        return object
    }

    /// One pattern for each layer that predicts further tokens in place of the names of its modules: readers know those by other names.
    private func collapsed(_ modules: [String]) -> [String] {
        modules.reduce(into: []) { result, module in
            guard let layer = WeightName.layer(module + "."), layer >= layers, let place = module.firstRange(of: ".\(layer).") else {
                return result.append(module)
            }
            let pattern = module[..<place.upperBound].dropLast() + "*"
            if !result.contains(String(pattern)) { result.append(String(pattern)) }
        }
    }

    private static func compressedTensors(_ groups: [Group], _ unquantized: [String], _ ignorePatterns: [String]) throws -> JSONObject {
        var described: [CompressedTensorsConfig.Group] = []
        for group in groups {
            guard case .compressedTensors(let format, let weights, let activations) = group.configuration else {
                throw ConversionFailure.mixedConfigurations(groups.map(\.layout))
            }
            described.append(
                CompressedTensorsConfig.Group(
                    format: format, weights: weights, activations: activations, targets: groups.count == 1 ? ["Linear"] : group.modules))
        }
        return CompressedTensorsConfig.json(groups: described, ignore: ignorePatterns + unquantized)
    }

    /// The commonest setting is the default; modules of another have an entry of their own.
    private static func mlx(_ groups: [Group], _ first: Group) throws -> JSONObject {
        let largest = groups.reduce(first) { $1.modules.count > $0.modules.count ? $1 : $0 }
        guard case .mlx(var object) = largest.configuration else { throw ConversionFailure.mixedConfigurations(groups.map(\.layout)) }
        for group in groups where group.layout != largest.layout {
            guard case .mlx(let settings) = group.configuration else { throw ConversionFailure.mixedConfigurations(groups.map(\.layout)) }
            for module in group.modules { object[module] = .object(settings) }
        }
        return object
    }

    /// The dtype of the dense weights, if the conversion settles it.
    private static func denseType(_ weights: [PlannedWeight]) -> JSONValue? {
        guard let type = weights.lazy.filter({ $0.road == .cast || $0.road == .dequantize }).compactMap({ $0.layout?.denseType }).first else {
            return nil
        }
        let names = ["BF16": "bfloat16", "F16": "float16", "F32": "float32"]
        return names[type.rawValue].map(JSONValue.string)
    }
}
