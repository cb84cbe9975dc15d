import Architectures
import Checkpoints
import Formats
import Runtime
import Tensors

/// A plan in the making: what becomes of every weight, before anything has a place in a file.
struct PlanDraft {
    /// Tensors that belong together: those of one weight, or of a stack of weights.
    struct Unit {
        var members: [Member]
        var declarations: [TensorDeclaration]
        /// Which file, where the dialect decides.
        var rank: Int?

        var byteCount: Int { declarations.reduce(0) { $0 + (Shape.byteCount($1.shape, $1.type) ?? 0) } }
    }

    struct Member {
        var weight: PlannedWeight
        /// Place in the stack, and how many are stacked.
        var index = 0
        var count = 1
    }

    private let checkpoint: Checkpoint
    private let choice: LayoutChoice
    private let output: OutputOptions
    private(set) var units: [Unit] = []
    private(set) var notes: [Finding] = []
    private(set) var unquantizedLinears: [String] = []
    /// Linear modules that stay unquantized by their role, which some readers must be told.
    private(set) var exemptLinears: [String] = []
    /// Values that quantized layouts are for, and how many of them are left as they are.
    private var linearValues = (all: 0, left: 0)
    private var leftLinears: [String] = []
    /// By index of the weight, where an exact way hangs on its scales.
    private var proofs: [Int: Proof] = [:]
    /// Whether layers beyond `num_hidden_layers` were left out.
    private(set) var dropsMTP = false
    /// Why weights that share codes with the target's layout cannot be repacked: for each kind of weight the first one's reason.
    private var inexact: [String: (reason: String, names: [String])] = [:]

    init(_ checkpoint: Checkpoint, _ choice: LayoutChoice, _ output: OutputOptions) {
        self.checkpoint = checkpoint
        self.choice = choice
        self.output = output
    }

    mutating func decide(stop: StopToken = StopToken()) throws {
        var model = DialectModel(checkpoint.languageConfig, roles: checkpoint.roles)
        if model.joinedExperts != nil, !choice.isCopy { model.joinedExperts = try joinedExperts() }
        if !choice.isCopy, model.joinedExperts != .stacked, let note = choice.dialect.noteOnExpertsApart(checkpoint.roles),
            let expert = checkpoint.weights.first(where: { checkpoint.roles.place(of: String($0.module))?.expert != nil })
        {
            notes.append(Finding(expert.name, note))
        }
        try proveRepackings(model, stop)
        // A module's bias has no part in the range of its weight.
        let matrices = checkpoint.weights.indices.filter { WeightName.leaf(checkpoint.weights[$0].name) == "weight" }
        let places = Dictionary(matrices.map { (checkpoint.weights[$0].module, $0) }) { first, _ in first }
        var used = Set<Int>()
        var exceptions: [String: [String]] = [:]
        var stacks: [String: Int] = [:]
        var dropped: [String] = []
        var companions: [Int] = []
        for (index, weight) in checkpoint.weights.enumerated() {
            // What lies beside weights is decided once it is known what becomes of them.
            if !choice.isCopy, WeightName.isCompanion(weight.name) {
                companions.append(index)
                continue
            }
            let pieces = try choice.dialect.pieces(of: LogicalTensor(name: weight.name, dimensions: weight.dimensions), in: model)
            if pieces.isEmpty { dropped.append(weight.name) }
            for piece in pieces {
                let shape = piece.view?.shape ?? weight.shape
                let dimensions = piece.view?.dimensions(of: weight.dimensions) ?? weight.dimensions
                let leaf = String(WeightName.leaf(weight.name))
                let ruled = choice.dialect.layout(of: piece, leaf: leaf, as: dimensions, from: weight.layout, in: model)
                let decision = try choice.decide(weight, as: dimensions, roles: checkpoint.roles, ruled: ruled, used: &used)
                if decision.isException { exceptions[decision.reason, default: []].append(weight.name) }
                if decision.isUnquantizedLinear, unquantizedLinears.last != piece.module { unquantizedLinears.append(piece.module) }
                if leaf == "weight", decision.layout?.isDense == true, checkpoint.roles.isExemptLinear(piece.module) {
                    exemptLinears.append(piece.module)
                }
                count(decision, weight, shape)
                var planned = try planned(weight, index, piece, decision, shape, model)
                if planned.road == .quantize, planned.quantizer != decision.quantizer {
                    let reason =
                        "quantized by \(planned.quantizer.rawValue), not \(decision.quantizer.rawValue): parts of a weight under names of their own have other inputs than it"
                    exceptions[reason, default: []].append(weight.name)
                }
                if let split = piece.split { try divide(&planned, weight, split) }
                if let layout = planned.layout as? any WholeRangeLayout, case .quantize(let quantizer, _) = planned.way {
                    let partners = checkpoint.roles.rangePartners(of: String(weight.module), byModelOpt: layout.sharesRangeAsModelOpt)
                    planned.way = .quantize(quantizer, range: [index] + partners.compactMap { places[$0[...]] })
                }
                try add(planned, weight, piece, shape, &stacks)
            }
        }
        try carryCompanions(companions, &used)
        let unmatched = choice.recipe.rules.indices.filter { !used.contains($0) }
        guard unmatched.isEmpty else { throw ConversionFailure.unmatchedRules(unmatched.map { choice.recipe.rules[$0].pattern.description }) }
        for (reason, names) in exceptions.sorted(by: { $0.key < $1.key }) { note(names, reason) }
        for (_, found) in inexact.sorted(by: { $0.key < $1.key }) { note(found.names, found.reason) }
        let towers = dropped.filter { checkpoint.roles.architecture?.carries($0) ?? false }
        if !towers.isEmpty {
            note(towers, "left out: it stands beside the language model, and \(choice.dialect.readers) takes it from a file of its own")
        }
        dropped.removeAll { checkpoint.roles.architecture?.carries($0) ?? false }
        if !dropped.isEmpty {
            dropsMTP = dropped.contains { WeightName.layer($0).map { $0 >= model.layers } ?? false }
            note(
                dropped,
                "left out: \(choice.dialect.readers) runs this architecture without multi-token prediction and computes rotary frequencies itself")
        }
        try checkStacks()
        markFolds()
    }

    /// Counts what quantized layouts are for.
    private mutating func count(_ decision: LayoutChoice.Decision, _ weight: Weight, _ shape: MatrixShape) {
        guard decision.isLeftUnquantized || decision.layout?.isDense == false else { return }
        let values = decision.isLeftUnquantized ? weight.count : shape.count
        linearValues.all += values
        guard decision.isLeftUnquantized else { return }
        linearValues.left += values
        leftLinears.append(weight.name)
    }

    /// Whether any numbers are chosen anew.
    var quantizes: Bool { units.contains { $0.members.contains { $0.weight.road == .quantize } } }

    /// A sentence about weights that were to be quantized and are not, if they are more than a few.
    var warning: Finding? {
        guard let first = leftLinears.first, linearValues.left * 100 > 3 * linearValues.all else { return nil }
        let share = Double(linearValues.left) * 100 / Double(max(1, linearValues.all))
        return Finding(
            first,
            "\((share * 10).rounded() / 10) % of the values that were to be quantized stay as they are (\(leftLinears.count) weights: \(ConversionPlan.kinds(leftLinears)))"
        )
    }

    /// Scales of activations, of the cache and of outputs belong to the layouts that they were made for. Where nothing changes they are carried;
    /// otherwise their readers would take them in another unit, or not know them, so they are left out and named.
    private mutating func carryCompanions(_ indices: [Int], _ used: inout Set<Int>) throws {
        let isUnchanged = choice.dialect.isCanonical && units.allSatisfy { $0.members.allSatisfy { $0.weight.road == .passthrough } }
        let named = choice.recipe.rules.indices.filter { rule in
            indices.contains { choice.recipe.rules[rule].pattern.matches(checkpoint.weights[$0].name) }
        }
        used.formUnion(named)
        // A weight that stays what it is keeps the scale of its inputs where its description asks for one.
        var kept = Set<Substring>()
        for member in units.lazy.flatMap(\.members) where member.weight.road == .passthrough && member.weight.layout?.takesInputScale == true {
            kept.insert(checkpoint.weights[member.weight.source].module)
        }
        let carried = indices.filter {
            isUnchanged
                || choice.dialect.isCanonical && WeightName.leaf(checkpoint.weights[$0].name) == "input_scale"
                    && kept.contains(checkpoint.weights[$0].module)
        }
        let names = Set(indices).subtracting(carried).sorted().map { checkpoint.weights[$0].name }
        if let first = names.first {
            notes.append(
                Finding(
                    first,
                    "left out: scales of activations, cache or outputs (and orders of columns that say nothing) belong to the layout that they were made for, and no target here describes them (\(names.count) tensors: \(ConversionPlan.kinds(names)))"
                ))
        }
        var stacks: [String: Int] = [:]
        for index in carried {
            let weight = checkpoint.weights[index]
            let piece = StoredPiece(module: String(weight.module))
            let planned = PlannedWeight(
                source: index, way: .copy(), layout: weight.layout, reason: "carried beside its weight", module: piece.module)
            try add(planned, weight, piece, weight.shape, &stacks)
        }
    }

    /// Finds the norms that only lead into weights which AWQ scales: those take the scales' reciprocals.
    private mutating func markFolds() {
        var scaled: [String: Bool] = [:]
        var norms: [String: (unit: Int, member: Int)] = [:]
        for (number, unit) in units.enumerated() {
            for (place, member) in unit.members.enumerated() {
                let planned = member.weight
                scaled[planned.module] = planned.isCalibrated && planned.quantizer.method.scalesInputs
                let weight = checkpoint.weights[planned.source]
                if planned.module.hasSuffix("norm"), weight.layout?.isPlainBF16 == true, case .copy(tensors: nil, split: nil) = planned.way,
                    planned.view == nil
                {
                    norms[planned.module] = (number, place)
                }
            }
        }
        guard scaled.values.contains(true) else { return }
        for (module, place) in norms {
            guard let readers = checkpoint.roles.readers(of: module) else { continue }
            let found = readers.filter { scaled[$0] != nil }
            guard !found.isEmpty, found.allSatisfy({ scaled[$0] == true }) else { continue }
            units[place.unit].members[place.member].weight.way = .fold
            units[place.unit].members[place.member].weight.reason = "takes the reciprocals of the scales of what follows"
        }
    }

    private mutating func note(_ names: [String], _ reason: String) {
        let names = names.reduce(into: [String]()) { if $0.last != $1 { $0.append($1) } }
        notes.append(Finding(names[0], reason + (names.count > 1 ? " (\(names.count) weights: \(ConversionPlan.kinds(names)))" : "")))
    }

    // MARK: Roads

    private mutating func planned(
        _ weight: Weight, _ index: Int, _ piece: StoredPiece, _ decision: LayoutChoice.Decision, _ shape: MatrixShape, _ model: DialectModel
    ) throws -> PlannedWeight {
        var planned = PlannedWeight(
            source: index, way: .copy(), layout: weight.layout, reason: decision.reason, module: piece.module, view: piece.view)
        if let layout = decision.layout ?? weight.layout, let obstacle = choice.dialect.obstacle(to: layout) {
            throw ConversionFailure.usage("\(weight.name): \(obstacle)")
        }
        guard let stored = weight.layout else { return planned }
        guard !choice.isCopy else { return planned }
        let layout = try choice.dialect.arranged(decision.layout ?? stored, of: piece, leaf: String(WeightName.leaf(weight.name)), in: model)
        guard decision.layout != nil else {
            guard piece.view == nil, layout.isStored(as: stored, shape: shape) else {
                throw ConversionFailure.usage("\(weight.name): cannot stay as it is among the experts of a stack; name a layout for it")
            }
            return planned
        }
        planned.layout = layout
        // A part of a weight under a name of its own has other inputs, or none; but for rows of it, whose inputs nobody scales by themselves.
        let keeps = piece.view.map { $0.picksRows && !decision.quantizer.method.scalesInputs } ?? true || choice.dialect.isSelfDescribing
        let quantizer = keeps ? decision.quantizer : decision.quantizer.withoutStatistics
        if let view = piece.view {
            if view.picksRows, let way = rowwise(stored, view, layout, shape) {
                (planned.layout, planned.way) = (way.target, .repack(way))
                return planned
            }
            planned.way =
                !layout.isDense
                ? .quantize(quantizer, range: []) : !stored.isDense ? .dequantize : stored.name == layout.name ? .rearrange : .cast
            return planned
        }
        if layout.isStored(as: stored, shape: shape) {
            planned.layout = stored
        } else if layout.isDense {
            planned.way = !stored.isDense ? .dequantize : stored is any PairedLayout && stored.name == layout.name ? .rearrange : .cast
        } else if let repacking = repacking(weight, index, stored, layout, shape) {
            planned.layout = repacking.target
            planned.way = repacking.target.isStored(as: stored, shape: shape) ? .copy() : .repack(repacking)
        } else {
            planned.way = .quantize(quantizer, range: [])
        }
        return planned
    }

    /// The way to store rows that were picked out of a weight with their codes: where each row is stored by itself, and no scale stands in the way.
    private func rowwise(
        _ stored: any WeightLayout, _ view: WeightView, _ layout: any WeightLayout, _ shape: MatrixShape
    ) -> (any Repacking)? {
        let pair = stored as? any PairedLayout
        let stored = pair?.half(view.rows.lowerBound) ?? stored
        guard !layout.isDense, pair != nil || stored.parts(of: shape).allSatisfy({ $0.rows == .every(1) }) else { return nil }
        if layout.isStored(as: stored, shape: shape) { return Renaming(source: stored, target: layout) }
        guard case .possible(let ways) = LayoutRegistry.repacking(from: stored, to: layout, shape: shape)
        else { return nil }
        return ways.first { !$0.needsScales }
    }

    /// How the experts of a model are written whose gate and up are one matrix: in stacks if its readers take every one of them so.
    private func joinedExperts() throws -> DialectModel.JoinedExperts {
        var unused = Set<Int>()
        for weight in checkpoint.weights where WeightName.leaf(weight.name) == "weight" {
            guard let place = checkpoint.roles.place(of: String(weight.module)), place.expert != nil else { continue }
            let decision = try choice.decide(weight, roles: checkpoint.roles, used: &unused)
            guard let layout = decision.layout ?? weight.layout, choice.dialect.stacksExperts(as: layout) else { return .apart }
        }
        return .stacked
    }

    /// Makes a planned weight one rank's part of it.
    private func divide(_ planned: inout PlannedWeight, _ weight: Weight, _ split: TensorSplit) throws {
        let size = split.axis < weight.dimensions.count ? weight.dimensions[split.axis] : 0
        guard size > 0, size % split.count == 0, split.axis == 0 || weight.dimensions.count == 2 else {
            throw ConversionFailure.usage(
                "\(weight.name): \(weight.dimensions) cannot be divided among \(split.count) ranks; give a smaller --model-parallel")
        }
        if let blocks = planned.layout as? any ScaledBlockLayout {
            let block = split.axis == 0 ? blocks.blockRows : blocks.blockColumns
            guard size / split.count % block == 0 else {
                throw ConversionFailure.usage(
                    "\(weight.name): \(size) rows or columns divided among \(split.count) ranks would cut FP8 blocks of \(block), whose scales then belong to no rank; give a smaller --model-parallel or --to bf16"
                )
            }
        }
        switch planned.way {
        case .copy(let tensors, _): planned.way = .copy(tensors: tensors, split: split)
        case .repack, .rearrange:
            throw ConversionFailure.usage(
                "\(weight.name): convert to \(planned.layout?.name ?? "") first, then divide with --to keep --model-parallel")
        case .cast, .dequantize, .quantize, .fold: planned.view = WeightView(split, of: weight.shape)
        }
    }

    /// Whether a way from one layout to another holds every scale of a weight.
    private enum Proof: Sendable {
        case holds(any Repacking)
        case fails(String)
    }

    /// Reads the scales of every weight whose exact way hangs on them, on all processors.
    private mutating func proveRepackings(_ model: DialectModel, _ stop: StopToken) throws {
        var asked: [(index: Int, ways: [any Repacking])] = []
        var unused = Set<Int>()
        for (index, weight) in checkpoint.weights.enumerated() {
            guard let stored = weight.layout, !stored.isDense else { continue }
            var ruled: (layout: any WeightLayout, reason: String)?
            if choice.dialect.isSelfDescribing {
                // Its readers' rules are about single tensors.
                let pieces = try choice.dialect.pieces(of: LogicalTensor(name: weight.name, dimensions: weight.dimensions), in: model)
                guard let piece = pieces.first, pieces.count == 1, piece.view == nil else { continue }
                ruled = choice.dialect.layout(
                    of: piece, leaf: String(WeightName.leaf(weight.name)), as: weight.dimensions, from: stored, in: model)
            }
            guard let layout = try choice.decide(weight, roles: checkpoint.roles, ruled: ruled, used: &unused).layout, !layout.isDense,
                !layout.isStored(as: stored, shape: weight.shape),
                case .possible(let ways) = LayoutRegistry.repacking(from: stored, to: layout, shape: weight.shape),
                ways.contains(where: \.needsScales)
            else { continue }
            // Parts of a weight are not taken this way.
            let pieces = try choice.dialect.pieces(of: LogicalTensor(name: weight.name, dimensions: weight.dimensions), in: model)
            guard pieces.allSatisfy({ $0.view == nil }) else { continue }
            asked.append((index, ways))
        }
        guard !asked.isEmpty else { return }
        let work = asked
        let checkpoint = checkpoint
        let found = Lock<[Int: Proof]>([:])
        try ParallelLoop.run(count: work.count, workers: ProcessFigures.processorCount, state: {}) { number, _ in
            if stop.isStopped { throw ConversionFailure.interrupted(done: 0, total: work.count) }
            let (index, ways) = work[number]
            let weight = checkpoint.weights[index]
            var proof = Proof.fails("")
            for way in ways {
                guard way.needsScales, let reason = try Self.obstacle(way, weight, in: checkpoint) else {
                    proof = .holds(way)
                    break
                }
                proof = .fails(reason)
            }
            let settled = proof
            found.withLock { $0[index] = settled }
        }
        proofs = found.withLock { $0 }
    }

    /// The exact way from one layout to another, if there is one; why not is remembered.
    private mutating func repacking(
        _ weight: Weight, _ index: Int, _ stored: any WeightLayout, _ layout: any WeightLayout, _ shape: MatrixShape
    ) -> (any Repacking)? {
        switch LayoutRegistry.repacking(from: stored, to: layout, shape: shape) {
        case .unrelated: return nil
        case .obstacle(let reason):
            refuseRepacking(weight, layout, reason)
            return nil
        case .possible(let ways):
            switch proofs[index] {
            case .holds(let way): return way
            case .fails(let reason):
                refuseRepacking(weight, layout, reason)
                return nil
            case nil: return ways.first { !$0.needsScales }
            }
        }
    }

    private mutating func refuseRepacking(_ weight: Weight, _ layout: any WeightLayout, _ reason: String) {
        let text = "cannot be repacked as \(layout.name): \(reason); its values are quantized again"
        inexact[WeightName.kind(weight.name), default: (text, [])].names.append(weight.name)
    }

    /// Refuses a plan in which numbers would be rounded or chosen anew. Small weights whose numbers are all of the narrower type are not rounded by it:
    /// GGUF files hold BF16 norms as F32.
    func refuseRounding() throws {
        if let kind = inexact.keys.sorted().first, let found = inexact[kind] {
            throw ConversionFailure.notExact(weight: found.names[0], count: inexact.values.reduce(0) { $0 + $1.names.count }, reason: found.reason)
        }
        let rounded = try units.flatMap(\.members).map(\.weight).filter { planned in
            let weight = checkpoint.weights[planned.source]
            switch planned.road {
            case .quantize: return true
            case .cast, .dequantize:
                let isF64 = weight.stored.contains { $0.type == .f64 }
                guard let stored = weight.layout, let type = (planned.layout as? any NumberLayout)?.type else { return true }
                switch type {
                case .f64: return false
                case .f32: return isF64
                // The values of a layout are BF16 by definition, but for those whose programs take them for F32.
                case .bf16 where !stored.exceedsBF16 || (stored as? any WideLayout)?.staysWideForCodes == false: return false
                default: return try isF64 || !holds(weight, stored, as: type)
                }
            case .passthrough, .repack, .fold: return false
            }
        }
        guard let first = rounded.first else { return }
        let weight = checkpoint.weights[first.source]
        throw ConversionFailure.notExact(
            weight: weight.name, count: rounded.count, reason: "\(weight.layoutName) to \(first.layout?.name ?? "") would round its values")
    }

    /// Whether a weight of few values has none that a narrower type would round.
    private func holds(_ weight: Weight, _ stored: any WeightLayout, as type: ScalarType) throws -> Bool {
        guard weight.count <= 1 << 20 else { return false }
        // What does not go straight to the type goes by way of BF16.
        let goesStraight = !stored.exceedsBF16 || (stored as? any WideLayout)?.staysWideForCodes == true
        return try checkpoint.floats(of: weight, rows: 0..<weight.shape.rows).allSatisfy {
            type.rounded($0) == $0 && (goesStraight || ScalarType.bf16.rounded($0) == $0)
        }
    }

    // MARK: Tensors

    private mutating func add(_ planned: PlannedWeight, _ weight: Weight, _ piece: StoredPiece, _ shape: MatrixShape, _ stacks: inout [String: Int])
        throws
    {
        var declarations = Self.declarations(of: planned, weight, planned.view?.shape ?? shape)
        for index in declarations.indices {
            declarations[index].name = choice.dialect.storedName(of: declarations[index].name, isStacked: piece.stack != nil)
        }
        guard let stack = piece.stack else {
            if let files = scattered(planned, weight) {
                for carried in files {
                    var part = planned
                    part.way = .copy(tensors: carried, split: planned.split)
                    units.append(Unit(members: [Member(weight: part)], declarations: carried.map { declarations[$0] }))
                }
                return
            }
            units.append(Unit(members: [Member(weight: planned)], declarations: declarations, rank: piece.rank))
            return
        }
        guard stack.index < stack.count else {
            throw ConversionFailure.usage(
                "\(weight.name): config.json promises \(stack.count) experts, so there is no place \(stack.index) in their stack")
        }
        // One number of each matrix is a vector of them.
        for index in declarations.indices {
            declarations[index].shape = [stack.count] + (declarations[index].shape == [1] ? [] : declarations[index].shape)
        }
        var planned = planned
        planned.stackIndex = stack.index
        let member = Member(weight: planned, index: stack.index, count: stack.count)
        // A matrix and its bias are stacks of their own.
        let key = piece.module + "." + WeightName.leaf(weight.name)
        if let place = stacks[key] {
            guard units[place].declarations == declarations else {
                throw ConversionFailure.mixedStack(piece.module, [units[place].members[0].weight, planned].map { $0.layout?.name ?? "" })
            }
            units[place].members.append(member)
        } else {
            stacks[key] = units.count
            units.append(Unit(members: [member], declarations: declarations))
        }
    }

    /// The stored tensors of a weight by file, if it passes through from several and the source's cuts are kept: a scale stays in the file
    /// that it was in.
    private func scattered(_ planned: PlannedWeight, _ weight: Weight) -> [[Int]]? {
        guard planned.road == .passthrough, keepsCuts, Set(weight.stored.map(\.file)).count > 1 else { return nil }
        var files: [(file: Int, parts: [Int])] = []
        for (index, tensor) in weight.stored.enumerated() {
            if let place = files.firstIndex(where: { $0.file == tensor.file }) {
                files[place].parts.append(index)
            } else {
                files.append((tensor.file, [index]))
            }
        }
        return files.map(\.parts)
    }

    /// Whether shards follow the source's files.
    private var keepsCuts: Bool {
        output.shardSize == nil && !choice.dialect.isSelfDescribing && !output.isSingleFile && choice.dialect.isCanonical && !checkpoint.isDivided
    }

    private func checkStacks() throws {
        for unit in units where unit.members[0].count > 1 && Set(unit.members.map(\.index)).count != unit.members[0].count {
            throw ConversionFailure.usage(
                "\(unit.members[0].weight.module): the stack needs \(unit.members[0].count) weights, the checkpoint has \(unit.members.count) of them"
            )
        }
    }

    /// The stored tensors of a planned weight. Dense and opaque weights keep their dimensions.
    private static func declarations(of planned: PlannedWeight, _ weight: Weight, _ shape: MatrixShape) -> [TensorDeclaration] {
        let prefix = planned.module.isEmpty ? "" : planned.module + "."
        let isRenamed = planned.module != String(weight.module)
        if planned.road == .passthrough {
            return weight.stored.map { tensor in
                let name = isRenamed ? prefix + WeightName.leaf(tensor.name) : tensor.name
                return TensorDeclaration(name: name, type: tensor.type, shape: planned.split?.dimensions(tensor.shape) ?? tensor.shape)
            }
        }
        guard let layout = planned.layout else { return [] }
        let parts = layout.parts(of: shape)
        if layout.denseType != nil {
            return [
                TensorDeclaration(
                    name: prefix + WeightName.leaf(weight.name), type: parts[0].type,
                    shape: planned.view?.dimensions(of: weight.dimensions) ?? weight.dimensions)
            ]
        }
        return parts.map { TensorDeclaration(name: prefix + $0.leaf, type: $0.type, shape: $0.shape) }
    }

    // MARK: Shards

    /// The source file that a shard would be a copy of: all its tensors, all passed through, under their names.
    func copiedFile(_ cut: [Int]) -> Int? {
        guard let first = cut.first, output.container.wrapsSafetensors, choice.dialect.isCanonical
        else { return nil }
        let leader = units[first].members[0].weight
        guard let file = leader.passed(of: checkpoint.weights[leader.source]).first?.file else { return nil }
        guard let held = checkpoint.safetensors[file] else { return nil }
        // A new layout's files all say the same of themselves, whatever the source's said: transformers wants the format.
        if !choice.isCopy, !checkpoint.isOfPyTorch(file: file) { return nil }
        var names = 0
        for unit in cut {
            let member = units[unit].members[0].weight
            let passed = member.passed(of: checkpoint.weights[member.source])
            guard units[unit].members.count == 1, member.road == .passthrough, passed.allSatisfy({ $0.file == file }),
                zip(units[unit].declarations, passed).allSatisfy({ $0.name == $1.name && $0.shape == $1.shape })
            else { return nil }
            names += passed.count
        }
        return names == held.tensors ? file : nil
    }

    /// Which units share a shard: the source's cuts, or runs of at most `shardSize` bytes.
    func cut() -> [[Int]] {
        if let ranks = choice.dialect.ranks { return (0..<ranks).map { rank in units.indices.filter { units[$0].rank == rank } } }
        let order = choice.dialect.order(units.map { $0.declarations[0] })
        if output.isSingleFile { return [order] }
        if keepsCuts {
            var files = [[Int]](repeating: [], count: checkpoint.files.count)
            for (index, unit) in units.enumerated() {
                let member = unit.members[0].weight
                files[checkpoint.weights[member.source].stored[member.copied?[0] ?? 0].file].append(index)
            }
            return files.filter { !$0.isEmpty }
        }
        let size = output.shardSize ?? 5_000_000_000
        var shards: [[Int]] = []
        var filled = 0
        for index in order {
            let byteCount = units[index].byteCount
            if shards.isEmpty || filled + byteCount > size && filled > 0 {
                shards.append([])
                filled = 0
            }
            shards[shards.count - 1].append(index)
            filled += byteCount
        }
        return shards
    }
}
