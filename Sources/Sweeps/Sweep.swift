import Architectures
import Calibration
import Checkpoints
import Conversion
import Formats
import Parity
import Quantization
import ReferenceModels
import Runtime
import StrictJSON
import Tensors

/// What a sweep tries, and what for.
package struct SweepRequest: Sendable {
    package enum Target: Sendable, Equatable {
        /// The whole output.
        case bytes(Int)
        /// Stored bits of a quantized weight.
        case bits(Double)
        /// Mean KL divergence in nats.
        case kld(Double)
    }

    package var layouts: [String]
    package var quantizers: [QuantizerName]
    package var recipes: [(path: String, layout: String, recipe: Recipe)]
    /// Whether every unit is measured in every layout, all others being the original.
    package var measuresSensitivity: Bool
    /// A mix of the layouts that is to be found.
    package var target: Target?
    package var settings = CalibrationSettings()

    package init(
        layouts: [String], quantizers: [QuantizerName] = [.rtn], recipes: [(path: String, layout: String, recipe: Recipe)] = [],
        measuresSensitivity: Bool = false, target: Target? = nil
    ) {
        self.layouts = layouts
        self.quantizers = quantizers
        self.recipes = recipes
        self.measuresSensitivity = measuresSensitivity
        self.target = target
    }
}

/// A sweep's results.
package struct SweepResult: Sendable {
    package var points: [SweepPoint] = []
    package var sensitivities: [Sensitivity] = []
    /// The quantizer with which units were measured and mixed.
    package var unitQuantizer: QuantizerName?
    package var mix: Mix?

    package struct Sensitivity: Sendable, Equatable {
        package var unit: SensitivityUnit
        package var costs: [UnitCost]
    }

    package struct Mix: Sendable, Equatable {
        /// The layout for `--to`, which weights outside the units follow.
        package var layout: String
        package var recipe: Recipe
        /// What the units' divergences add up to, beside what the mix was measured to have (its point is the last).
        package var predicted: Double
    }
}

/// Layouts times quantizers and recipes, measured on the same tokens without writing checkpoints.
package struct Sweep {
    private let checkpoint: Checkpoint
    private let request: SweepRequest
    private let evaluation: TokenBatch
    private let calibration: TokenBatch?
    private let statistics: InputStatistics?
    private let options: RunOptions
    private let stop: StopToken
    private let progress: (String) -> Void
    private let evidence: String
    private let layers: Int

    /// - Parameters:
    ///   - evaluation: what divergences are measured on; other text than `calibration`.
    ///   - calibration: what quantizers learn from.
    package init(
        _ checkpoint: Checkpoint, _ request: SweepRequest, evaluation: TokenBatch, calibration: TokenBatch?, statistics: InputStatistics? = nil,
        evidence: String, options: RunOptions = RunOptions(), stop: StopToken = StopToken(), progress: @escaping (String) -> Void = { _ in }
    ) throws {
        self.checkpoint = checkpoint
        self.request = request
        self.evaluation = evaluation
        self.calibration = calibration
        self.statistics = statistics
        self.evidence = evidence
        self.options = options
        self.stop = stop
        self.progress = progress
        layers = try ModelConfiguration(config: checkpoint.config).layers
    }

    private struct Trial {
        var name: String
        var layout: String
        var recipe: (path: String, recipe: Recipe)?
        var quantizer: QuantizerName
    }

    /// Makes every plan that the sweep will ask for, and one in which all layouts stand beside each other if there is to be a mix: what
    /// cannot be planned is refused now, not after days of measuring.
    private func refuseEarly() throws {
        func plan(_ layout: String, _ recipe: Recipe, _ quantizer: QuantizerName) throws {
            let choice = try LayoutChoice(target: layout, recipe: recipe, quantizer: quantizer, evidence: evidence)
            var plan = try ConversionPlan(converting: checkpoint, choice: choice, checksScales: false)
            if let statistics { try plan.check(statistics, of: checkpoint, from: "--statistics") }
        }
        for layout in request.layouts {
            for quantizer in request.quantizers where fits(layout, quantizer) { try plan(layout, Recipe(), quantizer) }
        }
        for entry in request.recipes { for quantizer in request.quantizers { try plan(entry.layout, entry.recipe, quantizer) } }
        guard request.target != nil, request.layouts.count > 1 else { return }
        let quantizer = request.quantizers[0]
        let units = try units().map(\.unit)
        // Each layout at some unit; those of one family are described together or not at all.
        let rules = try zip(units, request.layouts.dropFirst()).map { unit, layout in
            Recipe.Rule(pattern: try ModulePattern(unit.pattern), target: layout, quantizer: fits(layout, quantizer) ? nil : .rtn)
        }
        try plan(request.layouts[0], Recipe(rules: rules), quantizer)
    }

    /// Runs everything that `journalPath` does not know yet.
    package func run(journalPath: String) throws -> SweepResult {
        try refuseEarly()
        let journal = try SweepJournal(journalPath)
        let scratch = journalPath + ".streams"
        defer { try? FileTree.remove(scratch) }
        var evaluator: SweepEvaluator?
        func evaluate(_ plan: ConversionPlan, firstLayer: Int = 0) throws -> PredictionComparison {
            if evaluator == nil {
                progress("the original model")
                evaluator = try SweepEvaluator(
                    checkpoint, evaluation: evaluation, calibration: calibration, settings: request.settings, statistics: statistics,
                    scratch: request.measuresSensitivity || request.target != nil ? scratch : nil, options: options, stop: stop,
                    announce: progress)
            }
            guard let evaluator else { throw ReferenceFailure.interrupted }
            return try evaluator.evaluate(plan, firstLayer: firstLayer)
        }
        func size(_ plan: ConversionPlan) -> PlanSize { PlanSize(plan) { $0.view?.shape.count ?? checkpoint.weights[$0.source].count } }
        func point(_ trial: Trial) throws -> SweepPoint {
            let choice = try LayoutChoice(
                target: trial.layout, recipe: trial.recipe?.recipe ?? Recipe(), quantizer: trial.quantizer, evidence: evidence)
            let plan = try ConversionPlan(converting: checkpoint, choice: choice, checksScales: false)
            let key = key(plan)
            if let known = journal.points[key] { return known }
            progress(trial.name)
            let arguments = arguments(trial)
            let point = SweepPoint(
                name: trial.name, layout: trial.layout, recipe: trial.recipe?.path, quantizer: trial.quantizer, plan: plan, size: size(plan),
                comparison: try evaluate(plan), arguments: arguments)
            try journal.add(point, key)
            return point
        }

        var result = SweepResult()
        for layout in request.layouts {
            for quantizer in request.quantizers where fits(layout, quantizer) {
                result.points.append(
                    try point(Trial(name: "\(layout) by \(quantizer.rawValue)", layout: layout, recipe: nil, quantizer: quantizer)))
            }
        }
        for entry in request.recipes {
            for quantizer in request.quantizers {
                let name = entry.path.split(separator: "/").last.map(String.init) ?? entry.path
                result.points.append(
                    try point(
                        Trial(
                            name: "\(name) by \(quantizer.rawValue)", layout: entry.layout, recipe: (entry.path, entry.recipe), quantizer: quantizer))
                )
            }
        }
        guard request.measuresSensitivity || request.target != nil else { return result }

        let quantizer = request.quantizers[0]
        result.unitQuantizer = quantizer
        result.sensitivities = try units().map { unit, bytes in
            let costs = try request.layouts.map { layout -> UnitCost in
                guard let size = bytes[layout], size.isQuantized else { return UnitCost(layout: layout, bytes: bytes[layout]?.bytes ?? 0, kld: 0) }
                let plan = try ConversionPlan(converting: checkpoint, choice: alone(unit, layout, quantizer), checksScales: false)
                let key = key(plan)
                if let known = journal.divergences[key] { return UnitCost(layout: layout, bytes: size.bytes, kld: known) }
                progress("\(unit.name) in \(layout)")
                let kld = try evaluate(plan, firstLayer: unit.layer).kld.mean
                try journal.add(divergence: kld, key)
                return UnitCost(layout: layout, bytes: size.bytes, kld: kld)
            }
            return SweepResult.Sensitivity(unit: unit, costs: costs)
        }
        if let target = request.target {
            let (mix, mixed) = try mix(result.sensitivities, target, quantizer) { layout, recipe in
                try point(Trial(name: "mix by \(quantizer.rawValue)", layout: layout, recipe: (SweepOutput.recipeName, recipe), quantizer: quantizer))
            }
            result.mix = mix
            result.points.append(mixed)
        }
        return result
    }

    private func fits(_ layout: String, _ quantizer: QuantizerName) -> Bool {
        guard let target = LayoutRegistry.target(named: layout) else { return quantizer == .rtn }
        if target.layout.isDense { return quantizer == request.quantizers[0] }
        return quantizer.obstacle(to: target.layout) == nil
    }

    private func key(_ plan: ConversionPlan) -> String { plan.fingerprint + " " + evaluation.digest }

    private func arguments(_ trial: Trial) -> String {
        var words = ["--to", trial.layout]
        if let recipe = trial.recipe { words += ["--recipe", recipe.path] }
        let quantizers = [trial.quantizer] + (trial.recipe?.recipe.rules.compactMap(\.quantizer) ?? [])
        if trial.quantizer != .rtn { words += ["--quantizer", trial.quantizer.rawValue] }
        if quantizers.contains(where: { $0.needs != .nothing }) { words += ["--tokens", "CALIBRATION"] }
        return words.joined(separator: " ")
    }

    // MARK: Units

    /// Every unit, with its bytes in every layout.
    private func units() throws -> [(unit: SensitivityUnit, bytes: [String: (bytes: Int, isQuantized: Bool)])] {
        var units: [(unit: SensitivityUnit, bytes: [String: (bytes: Int, isQuantized: Bool)])] = []
        var places: [String: Int] = [:]
        for layout in request.layouts {
            let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: layout), checksScales: false)
            for planned in plan.weights where planned.isPrincipal {
                guard let unit = SensitivityUnit(checkpoint.weights[planned.source].name, layers: layers, roles: checkpoint.roles) else { continue }
                let isQuantized = planned.layout?.isDense == false
                let key = "\(unit.layer) \(unit.kind)"
                if places[key] == nil {
                    // Norms and the like are no units; a weight is one if some layout quantizes it.
                    guard isQuantized else { continue }
                    places[key] = units.count
                    units.append((unit, [:]))
                }
                guard let place = places[key] else { continue }
                if let companion = unit.companion { units[place].unit.companion = companion }
                var known = units[place].bytes[layout] ?? (0, false)
                known.bytes += planned.tensors.reduce(0) { $0 + $1.byteCount }
                known.isQuantized = known.isQuantized || isQuantized
                units[place].bytes[layout] = known
            }
        }
        return units.sorted { $0.unit.layer != $1.unit.layer ? $0.unit.layer < $1.unit.layer : $0.unit.kind < $1.unit.kind }
    }

    /// One unit in a layout, all other linear weights in BF16.
    private func alone(_ unit: SensitivityUnit, _ layout: String, _ quantizer: QuantizerName) throws -> LayoutChoice {
        let recipe = Recipe(rules: [
            Recipe.Rule(pattern: try ModulePattern(unit.pattern), target: layout),
            Recipe.Rule(pattern: try ModulePattern("*_proj*.weight"), target: "bf16"), Recipe.Rule(pattern: try ModulePattern("*"), target: "keep"),
        ])
        return try LayoutChoice(target: layout, recipe: recipe, quantizer: fits(layout, quantizer) ? quantizer : .rtn, evidence: evidence)
    }

    // MARK: Mixing

    private func mix(
        _ sensitivities: [SweepResult.Sensitivity], _ target: SweepRequest.Target, _ quantizer: QuantizerName,
        _ point: (String, Recipe) throws -> SweepPoint
    ) throws -> (SweepResult.Mix, SweepPoint) {
        let costs = sensitivities.map(\.costs)
        func made(_ chosen: [Int]) throws -> (SweepResult.Mix, SweepPoint) {
            let layouts = zip(costs, chosen).map { $0[$1].layout }
            let counts = Dictionary(layouts.map { ($0, 1) }, uniquingKeysWith: +)
            // What most units take; weights that are no unit follow it.
            let base = counts.max { ($0.value, $1.key) < ($1.value, $0.key) }?.key ?? request.layouts[0]
            let rules = try zip(sensitivities, layouts).filter { $1 != base }.map { sensitivity, layout in
                Recipe.Rule(
                    pattern: try ModulePattern(sensitivity.unit.pattern), target: layout, quantizer: fits(layout, quantizer) ? nil : .rtn)
            }
            let recipe = Recipe(rules: rules)
            let predicted = zip(costs, chosen).reduce(0) { $0 + $1.0[$1.1].kld }
            return (SweepResult.Mix(layout: base, recipe: recipe, predicted: predicted), try point(base, recipe))
        }
        switch target {
        case .bytes(let total):
            let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: request.layouts[0]), checksScales: false)
            let others = plan.outputBytes - costs.reduce(0) { $0 + $1[0].bytes }
            guard let chosen = BudgetedMix.choose(costs, budget: total - others) else { throw SweepFailure.budget(least: others + smallest(costs)) }
            return try made(chosen)
        case .bits(let bits):
            let values = try unitValues()
            guard let chosen = BudgetedMix.choose(costs, budget: Int(bits * Double(values) / 8)) else {
                throw SweepFailure.bits(least: Double(smallest(costs)) * 8 / Double(max(1, values)))
            }
            return try made(chosen)
        case .kld(let limit):
            // Sums of single divergences are a forecast; where it was too hopeful, it is corrected by what was measured.
            var aim = limit
            for _ in 0..<8 {
                guard let chosen = BudgetedMix.smallest(costs, kld: aim) else { break }
                let found = try made(chosen)
                if found.1.kld <= limit { return found }
                aim *= min(0.95, limit / found.1.kld)
            }
            throw SweepFailure.kld(limit)
        }
    }

    private func smallest(_ costs: [[UnitCost]]) -> Int { costs.reduce(0) { $0 + ($1.map(\.bytes).min() ?? 0) } }

    /// Values of all weights that are in a unit.
    private func unitValues() throws -> Int {
        let units = try units().map(\.unit)
        let keys = Set(units.map { "\($0.layer) \($0.kind)" })
        return checkpoint.weights.reduce(0) { sum, weight in
            guard let unit = SensitivityUnit(weight.name, layers: layers, roles: checkpoint.roles), keys.contains("\(unit.layer) \(unit.kind)") else {
                return sum
            }
            return sum + weight.count
        }
    }
}

/// Why no mix can be found.
package enum SweepFailure: Failure, Equatable {
    case budget(least: Int)
    case bits(least: Double)
    case kld(Double)

    package var kind: FailureKind { .usage }

    package var description: String {
        switch self {
        case .budget(let least): "--budget is too small: the smallest mix of these layouts takes \(ByteSize(least)); add a layout of fewer bits"
        case .bits(let least):
            "--bits is too small: the smallest mix of these layouts takes \((least * 1000).rounded() / 1000) bits a weight; add a layout of fewer bits"
        case .kld(let limit): "no mix of these layouts stays within --max-kld \(limit); add a layout of more bits, or another quantizer"
        }
    }
}
