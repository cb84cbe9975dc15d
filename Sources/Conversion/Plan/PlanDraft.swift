import Checkpoints
import Formats
import Tensors

/// A plan in the making: what becomes of every weight, before anything has a place in a file.
struct PlanDraft {
    /// Tensors that belong together: those of one weight, or of a stack of weights.
    struct Unit {
        var members: [Member]
        var declarations: [SafetensorsHeader.Declaration]

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
    private(set) var units: [Unit] = []
    private(set) var notes: [Finding] = []
    private(set) var unquantizedLinears: [String] = []
    /// Whether layers beyond `num_hidden_layers` were left out.
    private(set) var dropsMTP = false
    /// Why weights that share codes with the target's layout cannot be repacked: for each kind of weight the first one's reason.
    private var inexact: [String: (reason: String, names: [String])] = [:]

    init(_ checkpoint: Checkpoint, _ choice: LayoutChoice) {
        self.checkpoint = checkpoint
        self.choice = choice
    }

    mutating func decide() throws {
        let model = DialectModel(checkpoint)
        let places = Dictionary(checkpoint.weights.indices.map { (checkpoint.weights[$0].module, $0) }) { first, _ in first }
        var used = Set<Int>()
        var exceptions: [String: [String]] = [:]
        var stacks: [String: Int] = [:]
        var dropped: [String] = []
        for (index, weight) in checkpoint.weights.enumerated() {
            let pieces = choice.dialect.pieces(of: weight, model)
            if pieces.isEmpty { dropped.append(weight.name) }
            for piece in pieces {
                let shape = piece.view?.shape ?? weight.shape
                let decision = try choice.decide(weight, as: piece.view.map { [$0.shape.rows, $0.shape.columns] } ?? weight.dimensions, used: &used)
                if decision.isException { exceptions[decision.reason, default: []].append(weight.name) }
                if decision.isUnquantizedLinear, unquantizedLinears.last != piece.module { unquantizedLinears.append(piece.module) }
                var planned = try planned(weight, index, piece, decision, shape)
                if let layout = planned.layout as? any WholeRangeLayout, planned.road == .quantize {
                    planned.rangeSources = [index] + layout.partners(of: weight.module).compactMap { places[$0[...]] }
                }
                try add(planned, weight, piece, shape, &stacks)
            }
        }
        let unmatched = choice.recipe.rules.indices.filter { !used.contains($0) }
        guard unmatched.isEmpty else { throw ConversionFailure.unmatchedRules(unmatched.map { choice.recipe.rules[$0].pattern.description }) }
        for (reason, names) in exceptions.sorted(by: { $0.key < $1.key }) { note(names, reason) }
        for (_, found) in inexact.sorted(by: { $0.key < $1.key }) { note(found.names, found.reason) }
        if !dropped.isEmpty {
            dropsMTP = dropped.contains { WeightName.layer($0).map { $0 >= model.layers } ?? false }
            note(dropped, "left out: mlx-lm has no multi-token-prediction module and no stored rotary frequencies")
        }
        try checkStacks()
    }

    private mutating func note(_ names: [String], _ reason: String) {
        let names = names.reduce(into: [String]()) { if $0.last != $1 { $0.append($1) } }
        notes.append(Finding(names[0], reason + (names.count > 1 ? " (\(names.count) weights: \(ConversionPlan.kinds(names)))" : "")))
    }

    // MARK: Roads

    private mutating func planned(
        _ weight: Weight, _ index: Int, _ piece: OutputPiece, _ decision: LayoutChoice.Decision, _ shape: MatrixShape
    ) throws -> PlannedWeight {
        var planned = PlannedWeight(
            source: index, road: .passthrough, layout: weight.layout, reason: decision.reason, shard: 0, tensors: [], module: piece.module,
            view: piece.view)
        guard let layout = decision.layout, let stored = weight.layout else { return planned }
        planned.layout = layout
        if piece.view != nil {
            // A rearrangement of the same numbers, or numbers made of codes, or codes made of numbers.
            planned.road = !layout.isDense ? .quantize : stored.isDense ? (stored.name == layout.name ? .repack : .cast) : .dequantize
            return planned
        }
        if layout.isStored(as: stored, shape: shape) {
            planned.road = .passthrough
            planned.layout = stored
        } else if layout.isDense {
            planned.road = stored.isDense ? .cast : .dequantize
        } else if let repacking = try repacking(weight, stored, layout, shape) {
            planned.layout = repacking.target
            planned.road = repacking.target.isStored(as: stored, shape: shape) ? .passthrough : .repack
        } else {
            planned.road = .quantize
        }
        return planned
    }

    /// The exact way from one layout to another, if there is one; why not is remembered.
    private mutating func repacking(_ weight: Weight, _ stored: any WeightLayout, _ layout: any WeightLayout, _ shape: MatrixShape) throws
        -> Repacking?
    {
        switch Repacking.offer(from: stored, to: layout, shape: shape) {
        case .unrelated: return nil
        case .obstacle(let reason):
            refuseRepacking(weight, layout, reason)
            return nil
        case .possible(let ways):
            var reasons: [String] = []
            for repacking in ways {
                guard repacking.needsScales, let reason = try obstacle(repacking, weight, shape) else { return repacking }
                reasons.append(reason)
            }
            refuseRepacking(weight, layout, reasons[reasons.count - 1])
            return nil
        }
    }

    private mutating func refuseRepacking(_ weight: Weight, _ layout: any WeightLayout, _ reason: String) {
        let text = "cannot be repacked as \(layout.name): \(reason); its values are quantized again"
        inexact[WeightName.kind(weight.name), default: (text, [])].names.append(weight.name)
    }

    /// Reads the scales of the whole weight, and the codes if the answer hangs on them.
    private func obstacle(_ repacking: Repacking, _ weight: Weight, _ shape: MatrixShape) throws -> String? {
        let parts = weight.parts
        let unit = leastCommonMultiple(repacking.source.rowAlignment, repacking.target.rowAlignment)
        let rowsAtOnce = max(1, (4 << 20) / max(1, shape.columns * unit)) * unit
        for rows in TileSequence(rows: shape.rows, step: max(rowsAtOnce, repacking.source.preferredRows)) {
            let runs = parts.enumerated().map { index, part in
                index == 0 && !repacking.needsCodes ? ByteRuns(0..<0) : part.runs(of: rows, in: shape)
            }
            let memory = AlignedBuffer(byteCount: runs.reduce(0) { $0 + PartLayout.aligned($1.byteCount) })
            // The slices point into the buffer, which must live until they have been looked at.
            let reason = try withExtendedLifetime(memory) {
                var start = 0
                let slices = try runs.enumerated().map { index, runs in
                    let slice = memory.slice(start..<start + runs.byteCount)
                    start += PartLayout.aligned(runs.byteCount)
                    if runs.byteCount > 0 { try checkpoint.read(weight.stored[index], runs, into: slice) }
                    return UnsafeRawBufferPointer(slice)
                }
                return repacking.obstacle(slices, rows: rows, shape: shape)
            }
            if let reason { return reason }
        }
        return nil
    }

    /// Refuses a plan in which numbers would be rounded or chosen anew.
    func refuseRounding() throws {
        if let kind = inexact.keys.sorted().first, let found = inexact[kind] {
            throw ConversionFailure.notExact(weight: found.names[0], count: inexact.values.reduce(0) { $0 + $1.names.count }, reason: found.reason)
        }
        let rounded = units.flatMap(\.members).map(\.weight).filter { planned in
            let stored = checkpoint.weights[planned.source].layout
            switch planned.road {
            case .quantize: return true
            // Widening is exact, and the values of a layout are BF16 by definition.
            case .cast: return planned.layout?.name != "f32"
            case .dequantize: return planned.layout?.name == "f16" && stored?.isDense == false
            case .passthrough, .repack: return false
            }
        }
        guard let first = rounded.first else { return }
        let weight = checkpoint.weights[first.source]
        throw ConversionFailure.notExact(
            weight: weight.name, count: rounded.count, reason: "\(weight.layoutName) to \(first.layout?.name ?? "") would round its values")
    }

    // MARK: Tensors

    private mutating func add(_ planned: PlannedWeight, _ weight: Weight, _ piece: OutputPiece, _ shape: MatrixShape, _ stacks: inout [String: Int])
        throws
    {
        var declarations = Self.declarations(of: planned, weight, shape)
        guard let stack = piece.stack else {
            units.append(Unit(members: [Member(weight: planned)], declarations: declarations))
            return
        }
        guard stack.index < stack.count else {
            throw ConversionFailure.usage(
                "\(weight.name): config.json promises \(stack.count) experts, so there is no place \(stack.index) in their stack")
        }
        for index in declarations.indices { declarations[index].shape = [stack.count] + declarations[index].shape }
        var planned = planned
        planned.stackIndex = stack.index
        let member = Member(weight: planned, index: stack.index, count: stack.count)
        if let place = stacks[piece.module] {
            guard units[place].declarations == declarations else {
                throw ConversionFailure.mixedStack(piece.module, [units[place].members[0].weight, planned].map { $0.layout?.name ?? "" })
            }
            units[place].members.append(member)
        } else {
            stacks[piece.module] = units.count
            units.append(Unit(members: [member], declarations: declarations))
        }
    }

    private func checkStacks() throws {
        for unit in units where unit.members[0].count > 1 && Set(unit.members.map(\.index)).count != unit.members[0].count {
            throw ConversionFailure.usage(
                "\(unit.members[0].weight.module): the stack needs \(unit.members[0].count) weights, the checkpoint has \(unit.members.count) of them"
            )
        }
    }

    /// The stored tensors of a planned weight. Dense and opaque weights keep their dimensions.
    private static func declarations(of planned: PlannedWeight, _ weight: Weight, _ shape: MatrixShape) -> [SafetensorsHeader.Declaration] {
        let prefix = planned.module.isEmpty ? "" : planned.module + "."
        let isRenamed = planned.module != String(weight.module)
        if planned.road == .passthrough {
            return weight.stored.map { tensor in
                let name = isRenamed ? prefix + WeightName.leaf(tensor.name) : tensor.name
                return SafetensorsHeader.Declaration(name: name, type: tensor.type, shape: tensor.shape)
            }
        }
        guard let layout = planned.layout else { return [] }
        let parts = layout.parts(of: shape)
        if layout.isDense {
            return [
                SafetensorsHeader.Declaration(
                    name: prefix + WeightName.leaf(weight.name), type: parts[0].type,
                    shape: planned.view == nil ? weight.dimensions : [shape.rows, shape.columns])
            ]
        }
        return parts.map { SafetensorsHeader.Declaration(name: prefix + $0.leaf, type: $0.type, shape: $0.shape) }
    }

    // MARK: Shards

    /// Which units share a shard: the source's cuts, or runs of at most `shardSize` bytes.
    func cut(shardSize: Int?) -> [[Int]] {
        guard let size = shardSize ?? (choice.dialect == .mlx ? 5_000_000_000 : nil) else {
            var files = [[Int]](repeating: [], count: checkpoint.files.count)
            for (index, unit) in units.enumerated() { files[checkpoint.weights[unit.members[0].weight.source].stored[0].file].append(index) }
            return files.filter { !$0.isEmpty }
        }
        var shards: [[Int]] = []
        var filled = 0
        for (index, unit) in units.enumerated() {
            if shards.isEmpty || filled + unit.byteCount > size && filled > 0 {
                shards.append([])
                filled = 0
            }
            shards[shards.count - 1].append(index)
            filled += unit.byteCount
        }
        return shards
    }
}

extension WeightLayout {
    /// Whether bytes stored as `other` already are of this layout: the same parts, and no stricter rule about scales.
    func isStored(as other: any WeightLayout, shape: MatrixShape) -> Bool {
        guard type(of: other) == Self.self, parts(of: shape) == other.parts(of: shape) else { return false }
        if let mine = self as? BlockScaledFP8Layout, let stored = other as? BlockScaledFP8Layout {
            return !mine.roundsScaleUp || stored.roundsScaleUp
        }
        return name == other.name
    }
}
