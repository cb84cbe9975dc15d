import Architectures
import Checkpoints
import Conversion
import Formats
import Foundation
import ReferenceModels
import Runtime
import Tensors

/// What a candidate is compared with: a checkpoint, or what a forward pass of one left in a file.
package enum ParityReference: Sendable {
    case checkpoint(Checkpoint)
    case logits(LogitsReader)
    case compact(CompactReference)

    /// Opens a checkpoint, a logits file or a compact reference, told apart by what they hold.
    package init(opening path: String) throws {
        if case .file = try FileTree.entry(path) {
            let file = try PositionedFile.openForReading(path)
            let start = try file.read(min(64, file.size()), at: 0)
            guard ContainerRegistry.container(of: path, start: start) == Safetensors.self else {
                self = .checkpoint(try Checkpoint(opening: path))
                return
            }
            let header = try SafetensorsHeader(reading: file)
            if header.metadata.contains(where: { $0.key == CompactReference.metadataKey }) {
                self = .compact(try CompactReference(header, file))
                return
            }
            if let logits = LogitsReader(header, file) {
                self = .logits(logits)
                return
            }
        }
        self = .checkpoint(try Checkpoint(opening: path))
    }

    package var checkpoint: Checkpoint? { if case .checkpoint(let checkpoint) = self { checkpoint } else { nil } }

    /// The tokens that a compact reference brings along.
    package var tokens: TokenBatch? { if case .compact(let store) = self { store.tokens } else { nil } }
}

/// A comparison of forward passes and its noise floor.
package struct ForwardTrial: Sendable {
    package var comparison: ForwardComparison
    /// The same model against itself in another legitimate arithmetic.
    package var noiseFloor: ForwardComparison?
    /// What the noise floor compares, in words.
    package var noiseFloorName: String
    /// What was chosen where readers of the model differ, in words; nil where they do not.
    package var latentNorms: String?

    /// Runs reference and candidate in lockstep, layer by layer, in as many batches as the memory budget needs; nothing is
    /// kept but the residual streams.
    ///
    /// - Parameters:
    ///   - noiseFloor: a third pass of the reference (of the candidate where the reference is a file) in another precision.
    ///   - recorder: gets the reference's logits.
    package init(
        _ reference: ParityReference, _ candidate: Checkpoint, tokens: TokenBatch, precision: Precision = .f32,
        latentNorms: LatentNorms = .transformers, noiseFloor: Bool = false,
        recorder: CompactReference.Recorder? = nil, options: RunOptions = RunOptions(), stop: StopToken = StopToken(),
        progress: (_ layer: Int, _ layers: Int) -> Void = { _, _ in }
    ) throws {
        let configuration = try ModelConfiguration(config: candidate.config)
        try Self.check(reference, configuration, tokens)
        self.latentNorms = latentNorms.sentence(of: configuration)
        let other: Precision = precision == .f32 ? .bf16 : .f32
        let subject = reference.checkpoint ?? candidate
        noiseFloorName =
            "the \(reference.checkpoint == nil ? "candidate" : "reference") in \(precision.rawValue) against itself in \(other.rawValue)"
        let passes = (reference.checkpoint == nil ? 1 : 2) + (noiseFloor ? 1 : 0)
        let workers = max(1, options.jobs ?? ProcessFigures.processorCount)
        let budget = try ActivationBudget(configuration, tokens, passes: passes, workers: workers, memory: options.memory)
        var main = Accumulator(configuration)
        var floor = Accumulator(configuration)
        for batch in budget.batches {
            let part = tokens.sequences(batch)
            func pass(_ checkpoint: Checkpoint, _ precision: Precision) throws -> ForwardPass {
                try ForwardPass(checkpoint, tokens: part, precision: precision, latentNorms: latentNorms, passes: passes, options: options)
            }
            let side = try Self.side(reference, part, batch, tokens) { try pass($0, precision) }
            let candidatePass = try pass(candidate, precision)
            let floorPass = noiseFloor ? try pass(subject, other) : nil
            let workers = candidatePass.weights.workerCount
            while !candidatePass.isDone {
                if stop.isStopped { throw ReferenceFailure.interrupted }
                let layer = candidatePass.layer
                progress(layer, configuration.layers)
                let left = try side.step()
                let right = try candidatePass.step()
                main.add(layer, left, (HiddenRows(values: candidatePass.hidden, count: candidatePass.hidden.rows), right))
                guard let floorPass else { continue }
                let third = try floorPass.step()
                let base = reference.checkpoint == nil ? (HiddenRows(values: candidatePass.hidden, count: candidatePass.hidden.rows), right) : left
                floor.add(layer, base, (HiddenRows(values: floorPass.hidden, count: floorPass.hidden.rows), third))
            }
            let targets = Self.targets(part, part.ranges, ahead: 1)
            for rows in TileSequence(rows: part.count, step: candidatePass.logitsChunk) {
                if stop.isStopped { throw ReferenceFailure.interrupted }
                let predictions = try side.predictions(rows)
                let logits = try candidatePass.logits(rows)
                if let full = predictions as? FullPredictions { recorder?.add(full.logits) }
                main.predictions += try compareRows(predictions, logits, targets: Array(targets[rows]), workers: workers)
                guard let floorPass else { continue }
                let base = reference.checkpoint == nil ? FullPredictions(logits: logits) : predictions
                floor.predictions += try compareRows(base, floorPass.logits(rows), targets: Array(targets[rows]), workers: workers)
            }
            let known = try side.beginMTP()
            if known > 0, let module = try candidatePass.multiTokenPrediction() {
                let targets = Self.targets(part, module.sequences, ahead: 2)
                for rows in TileSequence(rows: min(known, module.count), step: candidatePass.logitsChunk) {
                    if stop.isStopped { throw ReferenceFailure.interrupted }
                    main.mtp += try compareRows(side.mtpPredictions(rows), module.logits(rows), targets: Array(targets[rows]), workers: workers)
                }
            }
        }
        comparison = main.comparison
        self.noiseFloor = noiseFloor ? floor.comparison : nil
    }

    /// The token that each row predicts: `ahead` places after the row's own in its sequence.
    static func targets(_ tokens: TokenBatch, _ rows: [Range<Int>], ahead: Int) -> [Int?] {
        zip(tokens.ranges, rows).flatMap { range, rows in
            (0..<rows.count).map { $0 + ahead < range.count ? tokens.all[range.lowerBound + $0 + ahead] : nil }
        }
    }

    private static func side(
        _ reference: ParityReference, _ part: TokenBatch, _ batch: Range<Int>, _ tokens: TokenBatch, _ pass: (Checkpoint) throws -> ForwardPass
    ) throws -> any ForwardReference {
        switch reference {
        case .checkpoint(let checkpoint): PassReference(try pass(checkpoint))
        case .logits(let file): GoldenReference(file, tokens: part, firstSequence: batch.lowerBound)
        case .compact(let store): StoredReference(store: store, first: tokens.ranges[batch.lowerBound].lowerBound)
        }
    }

    private static func check(_ reference: ParityReference, _ configuration: ModelConfiguration, _ tokens: TokenBatch) throws {
        switch reference {
        case .checkpoint(let checkpoint):
            let other = try ModelConfiguration(config: checkpoint.config)
            guard other.layers == configuration.layers, other.hiddenSize == configuration.hiddenSize, other.vocabulary == configuration.vocabulary
            else { throw ParityFailure.differentModels }
        case .logits(let file):
            guard file.shape[0] == tokens.ranges.count, file.shape[1] >= tokens.ranges.map(\.count).max() ?? 0,
                file.shape[2] == configuration.vocabulary
            else { throw ParityFailure.differentTokens(path: file.path) }
            // A narrower tensor would be read past its end, a wider one compared in part.
            try file.check(hidden: configuration.hiddenSize, vocabulary: configuration.vocabulary)
        case .compact(let store):
            guard store.vocabulary == configuration.vocabulary, store.tokens == tokens else {
                throw ParityFailure.differentTokens(path: "the reference")
            }
        }
    }

    /// Figures over all batches.
    private struct Accumulator {
        let router: ModelConfiguration.Router?
        let vocabulary: Int
        var layers: [ForwardComparison.Layer]
        var predictions: [PositionDifference] = []
        var mtp: [PositionDifference] = []

        init(_ configuration: ModelConfiguration) {
            router = configuration.router
            vocabulary = configuration.vocabulary
            layers = (0..<configuration.layers).map { ForwardComparison.Layer(layer: $0) }
        }

        mutating func add(_ layer: Int, _ reference: (hidden: HiddenRows?, routing: Routing?), _ candidate: (hidden: HiddenRows, routing: Routing?)) {
            if let hidden = reference.hidden { layers[layer].add(hidden, candidate.hidden.values) }
            if let left = reference.routing, let right = candidate.routing, let router { layers[layer].add(left, right, router) }
        }

        var comparison: ForwardComparison {
            ForwardComparison(
                predictions: PredictionComparison(predictions, vocabulary: vocabulary),
                mtp: mtp.isEmpty ? nil : PredictionComparison(mtp, vocabulary: vocabulary), layers: layers.filter { $0.rows > 0 })
        }
    }
}
