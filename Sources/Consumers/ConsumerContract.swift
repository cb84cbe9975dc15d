import Architectures
import Checkpoints
import Formats
import StrictJSON
import Tensors

/// The contract of a consumer, as its loader's source has it.
package struct ConsumerContract {
    let consumer: Consumer
    let checkpoint: Checkpoint
    private let weights: [String: Weight]

    package init(_ consumer: Consumer, _ checkpoint: Checkpoint) {
        self.consumer = consumer
        self.checkpoint = checkpoint
        weights = Dictionary(checkpoint.weights.map { ($0.name, $0) }) { first, _ in first }
    }

    private typealias Rule = (rule: String, check: () throws -> String?)

    package func report() -> ConsumerReport { report(consumer.readsFiles && !checkpoint.entries.isEmpty ? fileRules : rules) }

    private func report(_ rules: [Rule]) -> ConsumerReport {
        ConsumerReport(
            consumer: consumer,
            checks: rules.map { rule in
                // A rule that cannot be looked at does not hold.
                do { return .init(rule: rule.rule, failure: try rule.check()) } catch { return .init(rule: rule.rule, failure: "\(error)") }
            })
    }

    /// Of a file that says all of itself, as llama.cpp loads it.
    private var fileRules: [Rule] {
        let requirements = LlamaCppRequirements(checkpoint.entries)
        let embedding = checkpoint.roles.architecture?.module(.embedding).flatMap { weights[$0 + ".weight"] }?.dimensions
        return [
            ("the keys that its loader asks for are there", requirements.missingKeys),
            ("sizes are what its loader takes", { requirements.badSize(embedding: embedding) }),
            ("every tensor that the keys promise is there", promised),
            ("no tensor that the architecture does not have", unknown),
            ("vectors, norms and routers are F32", plainTypes),
            ("a tokenizer is inside", { requirements.badTokenizer(rows: embedding?.first) }),
        ]
    }

    /// What its graph adds to, or multiplies with, F32 numbers.
    private func plainTypes() -> String? {
        let others = checkpoint.weights.filter { weight in
            let place = checkpoint.roles.place(of: String(weight.module))
            return (weight.dimensions.count < 2 || place?.role == .router || isSelectionBias(weight.name)) && weight.layoutName != "f32"
        }
        return Self.list(others.map { "\($0.name) (\($0.layoutName))" }, "tensors have another type")
    }

    private var rules: [Rule] {
        var rules: [Rule] = [
            ("config.json names architecture and model type", configuration),
            ("every weight that config.json promises is there", promised),
            ("no tensor that the model code does not know", unknown),
            ("the expert-selection bias is F32", selectionBias),
            ("the quantization method is one it reads", method),
        ]
        if checkpoint.quantization?.method == "fp8" { rules.append(("block sizes and scales are as quantization_config says", blockScales)) }
        if checkpoint.quantization?.method == "compressed-tensors" {
            rules.append(("every quantized weight is as a config group says", groups))
        }
        if checkpoint.quantization?.method.hasPrefix("modelopt") == true {
            rules.append(("no quantized weight is exempt from quantization", notExempt))
        }
        // MLX looks for scales beside each weight and needs no list.
        if let method = checkpoint.quantization?.method, method != "mlx" {
            rules.append(("every unquantized linear is exempt from quantization", exempt))
        }
        if consumer.fusesModules {
            rules.append(("modules that are fused share a layout", fused))
            if checkpoint.weights.contains(where: { $0.layout is any WholeRangeLayout }) {
                rules.append(("modules that are fused share one tensor scale", sharedTensorScales))
            }
        }
        if consumer.readsReleasedNames { rules.append(("tensors have the names of the released model", ownNames)) }
        if consumer.needsStacks, checkpoint.roles.architecture?.needsStacks == true {
            rules.append(("experts are in stacks", stacks))
        }
        if let dropped = consumer.droppedModules { rules.append((dropped.rule, { try dropped.check(checkpoint) })) }
        if consumer.needsTokenizer { rules.append(("a tokenizer lies beside the weights", tokenizer)) }
        return rules
    }

    /// "3 weights ..., first A, B, C", or nil for none.
    static func list(_ names: [String], _ text: String) -> String? {
        names.isEmpty ? nil : "\(names.count) \(text), first \(names.prefix(3).joined(separator: ", "))"
    }

    // MARK: Names and configuration

    private func configuration() -> String? {
        guard checkpoint.config.object?.members.isEmpty == false else { return "there is no config.json" }
        guard checkpoint.config["architectures"]?.array?.first?.string != nil else { return "config.json has no `architectures`" }
        return checkpoint.config["model_type"]?.string == nil ? "config.json has no `model_type`" : nil
    }

    /// The model by its configuration; nil for an architecture that is not known here, of which nothing can be said.
    private func model() throws -> ModelConfiguration? {
        do { return try ModelConfiguration(config: checkpoint.config) } catch ArchitectureFailure.unknown { return nil }
    }

    private func promised() throws -> String? {
        guard let model = try model() else { return nil }
        return Self.list(ExpectedWeights(model).required.filter { weights[$0] == nil }, "weights are missing")
    }

    private func unknown() throws -> String? {
        guard let model = try model() else { return nil }
        let expected = ExpectedWeights(model)
        let known = Set(expected.required + expected.optional)
        return Self.list(checkpoint.weights.map(\.name).filter { !known.contains($0) }, "tensors have names that are not in the model")
    }

    /// Of a known architecture the one that it names: a router may have a bias of another kind.
    private func isSelectionBias(_ name: String) -> Bool {
        guard let architecture = checkpoint.roles.architecture else { return ModelRoles.isSelectionBias(name) }
        return WeightName.layer(name).flatMap { architecture.selectionBiasName(layer: $0) } == name
    }

    private func selectionBias() -> String? {
        Self.list(
            checkpoint.weights.filter { isSelectionBias($0.name) && $0.layoutName != "f32" }.map {
                "\($0.name) (\($0.layoutName))"
            },
            "biases have another type")
    }

    private func tokenizer() -> String? {
        checkpoint.sideFiles.map(\.name).contains { $0 == "tokenizer.json" || $0 == "tokenizer.model" || $0 == "tiktoken.model" }
            ? nil : "there is no tokenizer.json, tokenizer.model or tiktoken.model"
    }

    private func ownNames() -> String? {
        Self.list(
            checkpoint.weights.filter { $0.layout?.isJoinedFromParts == true }.map(\.name),
            "weights are stored in parts, under names that only other programs read")
    }

    private func stacks() -> String? {
        guard checkpoint.isAsStored else { return nil }
        return Self.list(
            checkpoint.weights.filter { checkpoint.roles.place(of: String($0.module))?.expert != nil }.map(\.name),
            "experts are stored by themselves, and would be filled with random numbers")
    }

    // MARK: Quantization

    private func method() -> String? {
        let quantized = checkpoint.weights.filter { $0.layout?.isDense == false }
        guard let quantization = checkpoint.quantization else {
            return Self.list(quantized.map(\.name), "weights are quantized but config.json has no quantization_config")
        }
        if quantization.method == "mlx" {
            return consumer.methods.contains("mlx") ? nil : "config.json describes MLX's own quantization, which only MLX reads"
        }
        guard !quantized.isEmpty else { return "quantization_config says \(quantization.method), but no weight is quantized" }
        guard consumer.methods.contains(quantization.method) else { return "quant_method \"\(quantization.method)\" is not read" }
        guard quantization.method == "compressed-tensors" else { return nil }
        return consumer.obstacle(quantization)
    }

    private func blockScales() -> String? {
        let quantized = checkpoint.weights.filter { $0.layout?.isDense == false }
        let misnamed = quantized.filter { !$0.stored.contains { $0.name.hasSuffix(".weight_scale_inv") } }.map(\.name)
        if let failure = Self.list(misnamed, "weights have no weight_scale_inv") { return failure }
        let block = checkpoint.quantization?.block ?? []
        let others = quantized.filter { ($0.layout as? any ScaledBlockLayout).map { [$0.blockRows, $0.blockColumns] != block } ?? true }
        return Self.list(others.map { "\($0.name) (\($0.layoutName))" }, "weights are not in blocks of \(block)")
    }

    /// A target or `ignore` entry of compressed-tensors: a name, a class, or a regular expression from the name's start.
    private struct Target {
        private let name: String
        private let regex: Regex<AnyRegexOutput>?

        init(_ text: String) {
            name = text
            regex = text.hasPrefix("re:") ? try? Regex(String(text.dropFirst(3))) : nil
        }

        func matches(_ module: String) -> Bool {
            if let regex { return (try? regex.prefixMatch(in: module)) != nil }
            return name == module || name == "Linear"
        }
    }

    /// An entry of ModelOpt's list. vLLM takes a name, a part of one, or a shell pattern (layers/quantization/modelopt.py,
    /// `is_layer_excluded`); SGLang a pattern of the whole name with `*` for anything (modelopt_quant.py, `is_layer_excluded`).
    private struct Exclusion {
        let text: String
        let takesParts: Bool

        func matches(_ module: String) -> Bool {
            if text == module || takesParts && !text.contains("*") && module.contains(text) { return true }
            return text.contains("*") && ModulePattern(glob: text).matches(module)
        }
    }

    /// Whether the consumer leaves a module unquantized, as the lists say.
    private var isExempt: (String) -> Bool {
        guard checkpoint.quantization?.method.hasPrefix("modelopt") == true else {
            let targets = ignored
            return { module in targets.contains { $0.matches(module) } }
        }
        let json = checkpoint.quantization?.json
        let lists = ["ignore", "exclude_modules"].compactMap { json?[$0]?.array }
        let exclusions = lists.joined().compactMap(\.string).map { Exclusion(text: $0, takesParts: consumer.exemptsByParts) }
        let roles = checkpoint.roles
        return { module in
            // What exempts one of the modules that the engines read from the same inputs exempts all.
            let fusion = roles.fusion(of: module)
            let names = fusion?.fused.isOfAttention == true ? fusion?.modules ?? [module] : [module]
            return names.contains { name in exclusions.contains { $0.matches(name) } }
        }
    }

    private func notExempt() -> String? {
        let isExempt = isExempt
        let wrong = checkpoint.weights.filter { $0.layout?.isDense == false && isExempt(String($0.module)) }
        return Self.list(wrong.map { String($0.module) }, "quantized weights are on the list of those that are not")
    }

    private var ignored: [Target] {
        let json = checkpoint.quantization?.json
        let lists = ["ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude"].compactMap { json?[$0]?.array }
        // GPTQModel's `dynamic` exempts what its negative patterns match.
        let dynamic = (json?["dynamic"]?.object?.members ?? []).map(\.key).filter { $0.hasPrefix("-:") }.map { "re:" + $0.dropFirst(2) }
        return (lists.joined().compactMap(\.string) + dynamic).map(Target.init)
    }

    private func groups() -> String? {
        let groups = (checkpoint.quantization?.json["config_groups"]?.object?.members ?? []).map(\.value)
        let targets = groups.map { ($0["targets"]?.array ?? []).compactMap(\.string).map(Target.init) }
        let ignored = ignored
        var wrong: [String] = []
        for weight in checkpoint.weights {
            guard let layout = weight.layout, !layout.isDense else { continue }
            let module = String(weight.module)
            if ignored.contains(where: { $0.matches(module) }) {
                wrong.append("\(module) (on the ignore list)")
                continue
            }
            guard let place = targets.firstIndex(where: { $0.contains { $0.matches(module) } }) else {
                wrong.append("\(module) (in no group)")
                continue
            }
            guard case .compressedTensors(_, let mine, _)? = LayoutRegistry.families.lazy.compactMap({ $0.configuration(of: layout) }).first else {
                wrong.append("\(module) (\(layout.name))")
                continue
            }
            let theirs = groups[place]["weights"]
            let keys = ["num_bits", "type", "strategy", "group_size", "symmetric"]
            if let key = keys.first(where: { mine[$0] != (theirs?[$0] ?? .null) }) {
                wrong.append("\(module) (\(layout.name), but its group has another \(key))")
            }
        }
        return Self.list(wrong, "weights are not as their config group says")
    }

    /// Linears that the consumers' model code never quantizes.
    private func isNeverQuantized(_ module: String) -> Bool {
        // A router gate is no Linear anywhere, an embedding neither.
        let exemption = checkpoint.roles.exemption(of: module)
        if let role = checkpoint.roles.place(of: module)?.role, role == .router || role == .embedding || role == .predictionEmbedding {
            let method = checkpoint.quantization?.method ?? ""
            let isAsked =
                consumer.listsRouters && checkpoint.roles.architecture?.listsRouters == true && (method == "awq" || method.hasPrefix("modelopt"))
            return role != .router || !isAsked
        }
        if module.hasSuffix("norm") { return true }
        // vLLM's and transformers' methods of this name are for experts only.
        if checkpoint.quantization?.method == "mxfp4" { return !WeightName.isRoutedExpert(module) }
        // Only compressed-tensors' readers quantize every linear that is not on the list.
        guard checkpoint.quantization?.method != "compressed-tensors" else { return false }
        return exemption?.isImplied == true
    }

    private func exempt() -> String? {
        let isExempt = isExempt
        let targets = (checkpoint.quantization?.json["config_groups"]?.object?.members ?? []).flatMap {
            ($0.value["targets"]?.array ?? []).compactMap(\.string).map(Target.init)
        }
        let bare = checkpoint.weights.filter { weight in
            guard weight.layout?.isDense == true, weight.dimensions.count == 2, WeightName.leaf(weight.name) == "weight" else { return false }
            let module = String(weight.module)
            if isNeverQuantized(module) || isExempt(module) { return false }
            return targets.isEmpty || targets.contains { $0.matches(module) }
        }
        return Self.list(bare.map { String($0.module) }, "unquantized linears would be loaded as quantized ones")
    }

    /// The engines join these into one matrix each, which can have one layout only.
    private func fused() -> String? {
        var parts: [String: [String: String]] = [:]
        for weight in checkpoint.weights where weight.layout != nil {
            let module = String(weight.module)
            let leaf = WeightName.leaf(module), parent = String(WeightName.module(module))
            if let place = checkpoint.roles.place(of: module), ModuleRole.routedExpert.contains(place.role) {
                // All experts of a layer are one matrix for gate and up and one for down, of one scheme.
                parts[String(WeightName.module(parent)), default: [:]]["\(leaf) of expert \(WeightName.leaf(parent))"] = weight.layoutName
            } else if let fusion = checkpoint.roles.fusion(of: module) {
                parts[parent + "." + fusion.fused.name, default: [:]][String(leaf)] = weight.layoutName
            }
        }
        let mixed = parts.filter { Set($0.value.values).count > 1 }.keys.sorted()
        return Self.list(
            mixed.map { "\($0) (\(Set(parts[$0]?.values.map { $0 } ?? []).sorted().joined(separator: " and ")))" },
            "fused modules have more than one layout")
    }

    /// Gate and up projections are one matrix in the engines, with one tensor scale: the first one's, or the largest.
    private func sharedTensorScales() -> String? {
        func scale(_ weight: Weight) -> UInt32? {
            guard let layout = weight.layout as? any WholeRangeLayout, weight.stored.count > layout.tensorScalePart else { return nil }
            let tensor = weight.stored[layout.tensorScalePart]
            guard tensor.byteCount == 4 else { return nil }
            return try? checkpoint.files[tensor.file].read(4, at: tensor.offset).reversed().reduce(0) { $0 << 8 | UInt32($1) }
        }
        let different = checkpoint.weights.filter { weight in
            let partners = checkpoint.roles.rangePartners(of: String(weight.module), byModelOpt: true)
            guard let mine = scale(weight) else { return false }
            // Each pair is named once, by its first.
            return partners.contains { partner in
                String(weight.module) < partner && weights[partner + ".weight"].flatMap(scale).map { $0 != mine } ?? false
            }
        }
        return Self.list(different.map(\.name), "matrices have another tensor scale than those that are loaded as one with them")
    }
}
