import Architectures
import Checkpoints
import Conversion
import Formats
import Quantization
import ReferenceModels
import Runtime
import Tensors

/// Quantizes a plan's weights as a forward pass comes to them: with the inputs that the weights before them, already quantized, produce.
///
/// Only one group of weights that share their inputs has statistics alive at a time.
package final class WeightCalibrator: WeightObserver {
    let checkpoint: Checkpoint
    let plan: ConversionPlan
    let settings: CalibrationSettings
    private let statistics: InputStatistics?
    let workers: Int
    /// Working memory for the rows of a weight that are quantized at once.
    let bandMemory: Int
    package let overlay = WeightOverlay()
    package internal(set) var report = CalibrationReport()
    /// Gets every weight that was quantized with its inputs, by position in the plan.
    let keep: (Int, WeightReplacement) throws -> Void
    let stop: StopToken
    /// Weights whose rows' scales may still be changed by those that follow, by module.
    var pending: [String: (position: Int, replacement: WeightReplacement)] = [:]
    /// Positions in the plan by the source weight's name.
    let positions: [String: [Int]]
    /// The original model, which decides about the routing.
    private let router: (() throws -> Routing?)?

    package init(
        _ checkpoint: Checkpoint, plan: ConversionPlan, settings: CalibrationSettings, statistics: InputStatistics? = nil, workers: Int,
        bandMemory: Int = 512 << 20, stop: StopToken = StopToken(), router: (() throws -> Routing?)? = nil,
        keep: @escaping (Int, WeightReplacement) throws -> Void = { _, _ in }
    ) {
        self.checkpoint = checkpoint
        self.plan = plan
        self.settings = settings
        self.statistics = statistics
        self.workers = workers
        self.bandMemory = bandMemory
        self.stop = stop
        self.router = router
        self.keep = keep
        var positions: [String: [Int]] = [:]
        for (position, planned) in plan.weights.enumerated() where planned.isPrincipal {
            positions[checkpoint.weights[planned.source].name, default: []].append(position)
        }
        self.positions = positions
    }

    /// Divides memory between a forward pass and the statistics of the widest calibrated weight with the rows that are quantized with them.
    package static func share(_ checkpoint: Checkpoint, _ plan: ConversionPlan, _ options: RunOptions) throws -> (pass: RunOptions, band: Int) {
        var widest = 0
        for position in plan.calibrated { widest = max(widest, checkpoint.weights[plan.weights[position].source].shape.columns) }
        guard widest > 0 else { return (options, min(512 << 20, options.memory / 8)) }
        // The moments; a stretch of inputs in two orders.
        let statistics = SecondMoments.byteCount(widest) + 2 * 512 * (widest + 384) * 4
        let band = min(512 << 20, options.memory / 8)
        var pass = options
        pass.memory -= statistics + band
        guard pass.memory > options.memory / 8 else {
            throw CalibrationFailure.memory(needed: (statistics + band) * 8 / 7, budget: options.memory)
        }
        return (pass, band)
    }

    package func routing(layer: Int) throws -> Routing? { try router?() }

    package func didUse(_ names: [String]) {
        for name in names {
            overlay[name] = nil
            pending[String(WeightName.module(name))] = nil
        }
    }

    /// Puts weights that are not observed (embeddings, the output head) into the overlay as the plan stores them, for as long as `body` runs.
    package func replacing<Result>(_ names: [String], _ body: () throws -> Result) throws -> Result {
        for name in names {
            let planned = (positions[name] ?? []).map { plan.weights[$0] }
            overlay[name] = try WeightReplacement(
                planned, of: checkpoint, statistics: statistics, workers: workers, memory: bandMemory, stop: stop)
        }
        defer { for name in names { overlay[name] = nil } }
        return try body()
    }

    package func willUse(_ names: [String], inputs: ObservedInputs, pooled: ObservedInputs?) throws {
        if stop.isStopped { throw CancellationError() }
        /// A weight, and where in the plan it is, or the rows of it that are written apart.
        var calibrated: [(name: String, positions: [Int])] = []
        for name in names {
            let places = positions[name] ?? []
            if !places.isEmpty, places.allSatisfy({ learnsFromInputs(plan.weights[$0]) }) {
                calibrated.append((name, places))
            } else if let replacement = try WeightReplacement(
                places.map { plan.weights[$0] }, of: checkpoint, statistics: statistics, workers: workers, stop: stop)
            {
                overlay[name] = replacement
            }
        }
        guard let first = calibrated.first else { return }
        var source = inputs
        if let pooled, inputs.count < settings.expertFloor {
            source = pooled
            report.pooled += calibrated.map { ($0.name, inputs.count) }
        }
        let scaled = calibrated.filter { plan.weights[$0.positions[0]].quantizer.method.scalesInputs }
        if !scaled.isEmpty { try scale(scaled.map { ($0.name, $0.positions[0]) }, source) }
        let others = calibrated.filter { !plan.weights[$0.positions[0]].quantizer.method.scalesInputs }
        guard !others.isEmpty else { return }
        let factor = try factor(source, first.name)
        var evidence = RowEvidence(importance: factor.importance)
        evidence.factor = factor
        for (name, positions) in others {
            var pieces: [(view: WeightView, part: WeightReplacement)] = []
            for position in positions {
                let replacement = try quantize(plan.weights[position], evidence)
                try keep(position, replacement)
                if let view = plan.weights[position].view { pieces.append((view, replacement)) } else { overlay[name] = replacement }
            }
            if !pieces.isEmpty {
                overlay[name] = try WeightReplacement(
                    joining: pieces, shape: checkpoint.weights[plan.weights[positions[0]].source].shape)
            }
            report.calibrated += 1
        }
    }

    /// Whether a weight is quantized with its inputs: a whole one, or rows of one.
    private func learnsFromInputs(_ planned: PlannedWeight) -> Bool {
        planned.view?.picksRows ?? true && planned.road == .quantize && planned.quantizer.needs == .hessian
    }

    /// The factored second moments of some inputs. A matrix that is not positive is tried again with ten times the damping.
    func factor(_ inputs: ObservedInputs, _ name: String, order known: [Int]? = nil) throws -> any FeedbackFactor {
        var order = known ?? Array(0..<inputs.columns)
        if known == nil, settings.ordersByActivation {
            var moments = InputMoments(columns: inputs.columns)
            try inputs.visit { moments.add(InputRows($0)) }
            order = moments.activationOrder
        }
        var damping = settings.damping
        while true {
            do {
                let factor = try factor(inputs, order: order, damping: damping)
                if damping > settings.damping { report.damped.append((name, damping)) }
                return factor
            } catch let error as NotPositive {
                guard damping < 1 else { throw CalibrationFailure.notPositive(weight: name, column: error.column) }
                damping = max(damping, 1e-4) * 10
            }
        }
    }

    /// In the form that is less work: which it is follows from the inputs alone, so that no other run chooses the other one.
    private func factor(_ inputs: ObservedInputs, order: [Int], damping: Double) throws -> any FeedbackFactor {
        func visit(_ body: (InputRows) throws -> Void) throws {
            try inputs.visit {
                if stop.isStopped { throw CancellationError() }
                try body(InputRows($0))
            }
        }
        if LowRankFactor.pays(tokens: inputs.count, columns: inputs.columns) {
            var ordered = try OrderedInputs(order: order, count: inputs.count)
            try visit { ordered.add($0) }
            return try LowRankFactor(ordered, damping: damping, workers: workers)
        }
        let sums = try SecondMoments(order: order, workers: workers)
        try visit { try sums.add($0) }
        return try DenseFactor(sums, damping: damping, workers: workers)
    }

    /// Chooses codes and scales of a weight, band by band of its rows.
    func quantize(_ planned: PlannedWeight, _ evidence: RowEvidence) throws -> WeightReplacement {
        let weight = checkpoint.weights[planned.source]
        guard let layout = planned.layout as? any IntegerCodedLayout, let stored = weight.layout else {
            throw ConversionFailure.unsupported(weight: weight.name, layout: planned.layout?.name ?? "")
        }
        let shape = planned.view?.shape ?? weight.shape
        let result = try WeightReplacement(layout: layout, shape: shape)
        let unit = leastCommonMultiple(leastCommonMultiple(stored.rowAlignment, layout.rowAlignment), 16)
        // Values in two types and two orders, their errors, their codes twice.
        let perRow = shape.columns * 16
        let band = max(1, min(bandMemory / max(1, perRow * unit), ceilingDivide(4096, unit))) * unit
        let parts = PartLayout(parts: layout.parts(of: shape), shape: shape)
        for rows in TileSequence(of: shape, step: band) {
            if stop.isStopped { throw CancellationError() }
            let values = try values(of: weight, planned.view, rows)
            let buffer = try AlignedBuffer(byteCount: parts.byteCount(rows))
            let slices = parts.slices(rows, in: buffer.bytes)
            do {
                let weights = try values.withUnsafeBufferPointer { values throws(EncodingFault) in
                    try SearchedEncoding.floats(values, rows: rows, shape: shape)
                }
                var evidence = evidence
                evidence.searchesScales = settings.searchesScales
                evidence.workers = workers
                evidence.nearest = { try self.nearest(values, layout, rows, shape, slices) }
                let chosen = try planned.quantizer.method.quantize(weights, on: IntegerGrid(layout), evidence)
                try SearchedEncoding.store(chosen, layout, rows: rows, shape: shape, into: slices)
            } catch let fault as EncodingFault {
                throw ConversionFailure(fault, weight: weight, layout: layout, of: checkpoint)
            } catch let fault as ErrorsOverflow {
                throw CalibrationFailure.overflows(
                    weight: weight.name, row: planned.view?.row(rows.lowerBound + fault.row) ?? rows.lowerBound + fault.row)
            }
            withExtendedLifetime(buffer) { result.put(slices, rows: rows, shape: shape) }
        }
        return result
    }

    /// Values of some rows of a weight, or of the rows of it that a view picks.
    private func values(of weight: Weight, _ view: WeightView?, _ rows: Range<Int>) throws -> [UInt16] {
        guard let view else { return try checkpoint.values(of: weight, rows: rows) }
        let unit = weight.layout?.rowAlignment ?? 1, columns = weight.shape.columns
        let span = view.span(of: rows)
        let origin = span.lowerBound / unit * unit..<min(weight.shape.rows, ceilingDivide(span.upperBound, unit) * unit)
        let whole = try checkpoint.values(of: weight, rows: origin)
        return rows.flatMap { row in
            let start = (view.row(row) - origin.lowerBound) * columns
            return whole[start..<start + columns]
        }
    }

    /// The scales that the layout's own encoder takes.
    private func nearest(
        _ values: [UInt16], _ layout: any IntegerCodedLayout, _ rows: Range<Int>, _ shape: MatrixShape, _ slices: [UnsafeMutableRawBufferPointer]
    ) throws -> [GroupParameters] {
        try values.withUnsafeBufferPointer { values throws(EncodingFault) in
            try layout.encode(values, rows: rows, shape: shape, into: slices)
        }
        return layout.groups(of: slices.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: shape)
    }
}

extension InputRows {
    init(_ activations: Activations) {
        self.init(base: UnsafePointer(activations.base), rows: activations.rows, columns: activations.columns)
    }
}
