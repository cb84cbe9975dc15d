import Architectures
import Calibration
import Checkpoints
import Conversion
import Parity
import Quantization
import ReferenceModels
import Runtime
import Tensors

/// Runs the model as plans would store it, without storing it: weights are quantized as the forward pass comes to them.
final class SweepEvaluator {
    let checkpoint: Checkpoint
    private let configuration: ModelConfiguration
    let evaluation: TokenBatch
    private let calibration: TokenBatch?
    private let settings: CalibrationSettings
    private let statistics: InputStatistics?
    private let options: RunOptions
    private let stop: StopToken
    private let reference: CompactReference
    /// The original residual stream before every layer, calibration tokens first; nil where every evaluation begins with the first layer.
    private let streams: PositionedFile?
    /// Holds what the budget counts of the reference.
    private let recorder: CompactReference.Recorder
    let layers: Int

    private var workers: Int { max(1, options.jobs ?? ProcessFigures.processorCount) }

    /// Runs the original model once.
    /// - Parameters:
    ///   - scratch: a file for its residual streams, if evaluations are to begin in the middle.
    ///   - announce: is told how large that will be.
    init(
        _ checkpoint: Checkpoint, evaluation: TokenBatch, calibration: TokenBatch?, settings: CalibrationSettings, statistics: InputStatistics?,
        scratch: String?, options whole: RunOptions, stop: StopToken, announce: (String) -> Void = { _ in }
    ) throws {
        // What is kept of the reference comes off the budget of the passes.
        let configuration = try ModelConfiguration(config: checkpoint.config)
        let width = min(Self.keptTokens, configuration.vocabulary)
        let keptBytes = evaluation.count * (width * 8 + 16)
        var options = whole
        options.memory -= keptBytes
        guard options.memory > whole.memory / 4 else { throw ReferenceFailure.memory(needed: keptBytes * 4 / 3, budget: whole.memory) }

        self.checkpoint = checkpoint
        self.configuration = configuration
        self.evaluation = evaluation
        self.calibration = calibration
        self.settings = settings
        self.statistics = statistics
        self.options = options
        self.stop = stop
        let pass = try ForwardPass(checkpoint, tokens: Self.joined(calibration, evaluation), options: options)
        layers = pass.configuration.layers
        let size = pass.hidden.rows * pass.hidden.columns * 4
        if let scratch {
            announce("keeping the residual streams of \(layers) layers in \(scratch): \(ByteSize(layers * size))")
            if let free = FileTree.freeSpace(scratch), free < layers * size {
                throw ConversionFailure.noSpace(path: scratch, needed: layers * size, free: free)
            }
            streams = try PositionedFile.openForWriting(scratch, truncate: true)
        } else {
            streams = nil
        }
        while !pass.isDone {
            if stop.isStopped { throw ReferenceFailure.interrupted }
            try streams?.write(UnsafeRawBufferPointer(start: pass.hidden.base, count: size), at: pass.layer * size)
            try pass.step()
        }
        // All tokens that matter to a mean divergence; what is left out is bounded.
        recorder = try CompactReference.Recorder(evaluation, vocabulary: pass.configuration.vocabulary, width: Self.keptTokens)
        let start = pass.tokens.count - evaluation.count
        for rows in TileSequence(rows: evaluation.count, step: pass.logitsChunk) {
            recorder.add(try pass.logits(start + rows.lowerBound..<start + rows.upperBound))
        }
        reference = recorder.reference
    }

    /// All tokens that matter to a mean divergence.
    private static let keptTokens = 1024

    private static func joined(_ first: TokenBatch?, _ second: TokenBatch) -> TokenBatch {
        TokenBatch((first.map { batch in batch.ranges.map { Array(batch.all[$0]) } } ?? []) + second.ranges.map { Array(second.all[$0]) })
    }

    /// - Parameter firstLayer: the first layer in which the plan changes anything.
    func evaluate(_ plan: ConversionPlan, firstLayer: Int = 0) throws -> PredictionComparison {
        if stop.isStopped { throw ReferenceFailure.interrupted }
        let learns = !plan.calibrated.isEmpty
        let calibration = learns ? calibration : nil
        let tokens = Self.joined(calibration, evaluation)
        let (options, band) = try WeightCalibrator.share(checkpoint, plan, options)
        let calibrator = WeightCalibrator(
            checkpoint, plan: plan, settings: settings, statistics: statistics, workers: workers, bandMemory: band, stop: stop)
        let pass = try calibrator.replacing([configuration.weight(.embedding)]) {
            try ForwardPass(
                checkpoint, tokens: tokens, overlay: calibrator.overlay, observer: calibrator, observedSequences: calibration?.ranges.count ?? 0,
                options: options)
        }
        // A layer that sees what an earlier one chose is no place to begin at.
        let firstLayer = (0...firstLayer).last { ForwardPass.isResumable(configuration, at: $0) } ?? 0
        if firstLayer > 0 { try pass.resume(at: firstLayer, hidden: stream(firstLayer, rows: tokens.count, columns: pass.hidden.columns)) }
        do {
            while !pass.isDone {
                if stop.isStopped { throw ReferenceFailure.interrupted }
                try pass.step()
            }
        } catch is CancellationError {
            throw ReferenceFailure.interrupted
        }
        return try calibrator.replacing([configuration.weight(.finalNorm), configuration.headWeight]) {
            var tally = PredictionTally(reference)
            try tally.add(pass, from: tokens.count - evaluation.count, position: 0)
            return tally.comparison
        }
    }

    /// The last rows of the original residual stream before a layer.
    private func stream(_ layer: Int, rows: Int, columns: Int) throws -> Activations {
        let all = (calibration?.count ?? 0) + evaluation.count
        let hidden = try Activations(rows: rows, columns: columns)
        let size = rows * columns * 4
        guard let streams else { throw ReferenceFailure.interrupted }
        let count = try streams.read(
            into: UnsafeMutableRawBufferPointer(start: hidden.base, count: size), at: (layer * all + all - rows) * columns * 4)
        guard count == size else { throw ShortRead(path: streams.path, tensor: "the residual stream", offset: count) }
        return hidden
    }
}
