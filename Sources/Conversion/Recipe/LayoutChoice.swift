import Architectures
import Checkpoints
import Formats
import Quantization
import Tensors

/// Decides the layout of every weight: the recipe first, then what the field keeps unquantized, then the target.
package struct LayoutChoice: Sendable {
    /// What is to happen to one weight, and why.
    package struct Decision: Sendable {
        /// Nil to carry the stored bytes.
        package var layout: (any WeightLayout)?
        /// The rule that decided, in words for `--dry-run`.
        package var reason: String
        /// Whether the target was asked for but cannot hold the weight; such weights are named in the plan.
        package var isException = false
        /// A linear layer left unquantized although the default rules would quantize it: consumers must be told.
        package var isUnquantizedLinear = false
        /// A weight that quantized layouts are for, but that stays as it is: its share of all such weights is told.
        package var isLeftUnquantized = false
        /// How codes and scales are chosen, if any are.
        package var quantizer: QuantizerName = .rtn
    }

    package static let keepName = "keep"

    package let targetName: String
    private let target: (any WeightLayout)?
    /// For layouts of experts only: what the other linear weights take.
    private let besideExperts: (any WeightLayout)?
    package let recipe: Recipe
    /// Who reads the output.
    package let dialect: any Dialect
    /// Of weights for which the recipe names none.
    package let quantizer: QuantizerName
    /// What quantizers learn from (tokens, statistics, settings), in words or digests: it identifies the output with all else.
    package let evidence: String

    /// - Parameters:
    ///   - modelParallel: divide the output among this many ranks of DeepSeek's inference code.
    ///   - names: whose names tensors get, by ``DialectRegistry/namings``; nil for those that the layout's readers ask for.
    package init(
        target name: String, recipe: Recipe = Recipe(), quantizer: QuantizerName = .rtn, evidence: String = "", modelParallel: Int? = nil,
        names: String? = nil, container: any Container.Type = Safetensors.self, preTokenizer: String? = nil, keepsPrediction: Bool? = nil
    ) throws {
        self.quantizer = quantizer
        self.evidence = evidence
        try Self.check(target: name) { .usage($0) }
        let found = LayoutRegistry.target(named: name)
        targetName = found?.name ?? name
        target = found?.layout
        besideExperts = found?.besideExperts.flatMap { LayoutRegistry.target(named: $0)?.layout }
        self.recipe = recipe
        let readers = found?.dialect ?? HuggingFace()
        if keepsPrediction != nil, container != GGUF.self {
            throw ConversionFailure.usage("--with-mtp and --without-mtp are for GGUF files; in others multi-token prediction goes with the rest")
        }
        if let names {
            guard let naming = DialectRegistry.namings.first(where: { $0.name == names }) else {
                throw ConversionFailure.usage(
                    "unknown names \"\(names)\"; known are \(DialectRegistry.namings.map(\.name).joined(separator: ", "))")
            }
            guard readers.isCanonical, modelParallel == nil, container != GGUF.self, name != Self.keepName else {
                throw ConversionFailure.usage("--names is for layouts whose readers leave the choice, not for \(name) here")
            }
            dialect = naming.dialect
        } else if let modelParallel {
            guard readers.isCanonical else { throw ConversionFailure.usage("--model-parallel divides BF16 and FP8 weights, not \(name)") }
            dialect = DeepSeekRanks(modelParallel)
        } else if container == GGUF.self {
            var described = try Self.llamaCpp(readers, found, quantizer)
            described.preTokenizer = preTokenizer
            described.keepsPrediction = keepsPrediction
            dialect = described
        } else {
            guard readers.container == nil else {
                throw ConversionFailure.usage(
                    "\(name) is a layout of \(readers.container ?? "") files; give a destination that ends in .gguf, or --container gguf")
            }
            dialect = readers
        }
        // Dense weights are the same to everyone; codes are not.
        for rule in recipe.rules {
            guard let other = LayoutRegistry.target(named: rule.target), !other.layout.isDense else { continue }
            // Plain numbers are llama.cpp's too, where the file is its.
            if container == GGUF.self, other.dialect is LlamaCpp { continue }
            if other.dialect.name != readers.name, target?.isDense == false || !other.dialect.isCanonical {
                throw ConversionFailure.mixedDialects(name, rule.target)
            }
        }
    }

    /// The dialect of a GGUF file: of a file type, or of plain numbers.
    private static func llamaCpp(_ readers: any Dialect, _ target: LayoutTarget?, _ quantizer: QuantizerName) throws -> LlamaCpp {
        if var named = readers as? LlamaCpp {
            named.hasImportance = quantizer.needs == .moments
            return named
        }
        guard let type = target?.layout.denseType, let plain = LlamaCppFileType.plain(type) else {
            let names = LlamaCppFileType.all.map(\.name).joined(separator: ", ")
            throw ConversionFailure.usage("llama.cpp reads no weights as \(target?.name ?? keepName); GGUF files take bf16, f16, f32, \(names)")
        }
        return LlamaCpp(plain)
    }

    package static func check(target: String, _ failure: (String) -> ConversionFailure) throws {
        guard target == keepName || LayoutRegistry.target(named: target) != nil else {
            let names = [keepName] + LayoutRegistry.targets.filter(\.isListed).map(\.name)
            let near = NearNames.of(target, among: names)
            let known = near.isEmpty ? "known are \(names.joined(separator: ", "))" : "did you mean \(near.joined(separator: ", "))?"
            throw failure("unknown layout \"\(target)\"; \(known)")
        }
    }

    /// Whether nothing is converted: every tensor is carried as it is stored, with what describes it.
    package var isCopy: Bool { targetName == Self.keepName && recipe.rules.isEmpty }

    /// Decides for one weight, or for a matrix made of it that has other `dimensions`. `used` collects the indices of recipe rules
    /// that matched; `ruled` is what the readers' own rules say, after the recipe.
    package func decide(
        _ weight: Weight, as dimensions: [Int]? = nil, roles: ModelRoles, ruled: (layout: any WeightLayout, reason: String)? = nil,
        used: inout Set<Int>
    ) throws -> Decision {
        let dimensions = dimensions ?? weight.dimensions
        for (index, rule) in recipe.rules.enumerated() where rule.pattern.matches(weight.name) || rule.pattern.matches(String(weight.module)) {
            used.insert(index)
            let reason = "recipe: \(rule.pattern) -> \(rule.target)"
            guard let layout = LayoutRegistry.target(named: rule.target)?.layout else {
                return Decision(layout: nil, reason: reason, isUnquantizedLinear: weight.layout?.isDense == true && Self.isLinear(weight, roles))
            }
            return try fit(weight, layout, reason, dimensions, rule.quantizer ?? quantizer, roles)
        }
        if let ruled {
            guard weight.layout != nil else { return Decision(layout: nil, reason: "not a floating weight: as stored") }
            if let obstacle = quantizer.obstacle(to: ruled.layout) { throw ConversionFailure.usage(obstacle) }
            return Decision(layout: ruled.layout, reason: ruled.reason, quantizer: quantizer)
        }
        guard let target else { return Decision(layout: nil, reason: "keep: as stored") }
        guard let stored = weight.layout else { return Decision(layout: nil, reason: "not a floating weight: as stored") }
        if stored.isDense, roles.architecture?.carries(weight.name) == true {
            let isLinear = weight.dimensions.count == 2 && WeightName.leaf(weight.name) == "weight"
            return Decision(layout: nil, reason: "kept as stored: beside the language model", isUnquantizedLinear: !target.isDense && isLinear)
        }
        if target.isDense { return decideDense(weight, stored, target, roles) }
        if let kept = Self.exemption(of: weight, roles, dialect, from: target) {
            // As in the BF16 checkpoint that the peers would start from.
            var decision = decideDense(weight, stored, .dense(.bf16), roles)
            decision.reason = "kept unquantized: \(kept.reason)"
            decision.isUnquantizedLinear =
                !kept.isImplied && (weight.dimensions.count == 2 && WeightName.leaf(weight.name) == "weight" || Self.isStack(weight))
            decision.isLeftUnquantized = Self.isStack(weight)
            return decision
        }
        if let besideExperts, !WeightName.isRoutedExpert(weight.name) {
            return try fit(
                weight, besideExperts, "--to \(targetName), beside the experts", dimensions,
                quantizer.obstacle(to: besideExperts) == nil ? quantizer : .rtn, roles)
        }
        return try fit(weight, target, "--to \(targetName)", dimensions, quantizer, roles)
    }

    private func decideDense(_ weight: Weight, _ stored: any WeightLayout, _ target: any WeightLayout, _ roles: ModelRoles) -> Decision {
        if ModelRoles.isSelectionBias(weight.name) {
            return Decision(layout: nil, reason: "kept as stored: expert-selection bias")
        }
        // Releases that store a router in F32 (MiniMax, Hy3, all that transformers 5.24 saves) mean its last bits, which choose experts.
        if stored.denseType == .f32, target.denseType.map({ $0.bitWidth < 32 }) == true, roles.place(of: weight.module)?.role == .router {
            return Decision(layout: stored, reason: "kept as stored: router gate in F32")
        }
        let leaf = WeightName.leaf(weight.name)
        if stored.isDense, leaf != "weight", leaf != "bias" { return Decision(layout: nil, reason: "kept as stored: parameter, not a weight") }
        return Decision(layout: target, reason: "--to \(targetName)", isUnquantizedLinear: Self.isLinear(weight, roles))
    }

    /// Why the default rules leave a weight unquantized; nil if they quantize it.
    private static func exemption(
        of weight: Weight, _ roles: ModelRoles, _ dialect: any Dialect = HuggingFace(), from layout: (any WeightLayout)? = nil
    ) -> ModelRoles.Exemption? {
        guard WeightName.leaf(weight.name) == "weight" else {
            return isStack(weight) ? .init(reason: "stacked experts", isImplied: false) : .init(reason: "not a linear weight", isImplied: true)
        }
        return dialect.exemption(of: String(weight.module), dimensions: weight.dimensions, roles: roles, from: layout)
    }

    /// Whether a tensor holds the matrices of several experts, under a name of its own or as a weight.
    static func isStack(_ weight: Weight) -> Bool {
        guard weight.layout != nil, WeightName.layer(weight.name) != nil else { return false }
        if weight.dimensions.count > 2 { return true }
        return weight.dimensions.count == 2 && weight.name.contains("experts") && !["weight", "bias"].contains(WeightName.leaf(weight.name))
    }

    private static func isLinear(_ weight: Weight, _ roles: ModelRoles) -> Bool { exemption(of: weight, roles) == nil }

    private func fit(
        _ weight: Weight, _ layout: any WeightLayout, _ reason: String, _ dimensions: [Int], _ quantizer: QuantizerName,
        _ roles: ModelRoles
    ) throws -> Decision {
        guard weight.layout != nil else { return Decision(layout: nil, reason: "not a floating weight: as stored", isException: true) }
        if layout.isDense { return Decision(layout: layout, reason: reason, isUnquantizedLinear: Self.isLinear(weight, roles)) }
        var obstacle = layout.obstacle(to: MatrixShape(dimensions))
        if dimensions.count != 2 { obstacle = "\(dimensions.count)-dimensional weights cannot be \(layout.name)" }
        if weight.count == 0 { obstacle = "the tensor is empty" }
        guard let obstacle else {
            if let reason = quantizer.obstacle(to: layout) { throw ConversionFailure.usage(reason) }
            return Decision(layout: layout, reason: reason, quantizer: quantizer)
        }
        return Decision(
            layout: .dense(.bf16), reason: "left unquantized: \(obstacle)", isException: true, isUnquantizedLinear: true,
            isLeftUnquantized: true)
    }
}
