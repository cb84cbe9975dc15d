import Architectures
import Checkpoints
import Conversion
import Formats
import Quantization
import ReferenceModels
import Runtime
import Tensors

/// A calibrated conversion's first stage: the forward pass over the calibration tokens, every weight quantized when its inputs are known,
/// from inputs that quantized weights have produced.
package struct Calibration: CalibrationStage {
    private let checkpoint: Checkpoint
    private let tokens: TokenBatch
    private let settings: CalibrationSettings
    private let statistics: InputStatistics?
    private let progress: @Sendable (_ layer: Int, _ layers: Int) -> Void
    private let finished: @Sendable (CalibrationReport) -> Void

    package init(
        _ checkpoint: Checkpoint, tokens: TokenBatch, settings: CalibrationSettings = CalibrationSettings(), statistics: InputStatistics? = nil,
        progress: @escaping @Sendable (_ layer: Int, _ layers: Int) -> Void = { _, _ in },
        finished: @escaping @Sendable (CalibrationReport) -> Void = { _ in }
    ) {
        self.checkpoint = checkpoint
        self.tokens = tokens
        self.settings = settings
        self.statistics = statistics
        self.progress = progress
        self.finished = finished
    }

    package func check(_ plan: ConversionPlan, _ options: RunOptions) throws {
        let (options, _) = try WeightCalibrator.share(checkpoint, plan, options)
        let configuration = try ModelConfiguration(config: checkpoint.config)
        let budget = try ActivationBudget(
            configuration, tokens, passes: settings.keepsRouting ? 2 : 1, workers: max(1, options.jobs ?? ProcessFigures.processorCount),
            memory: options.memory)
        guard budget.batches.count == 1 else { throw ReferenceFailure.batches(budget.batches.count, budget: options.memory) }
    }

    package func run(into output: CalibrationOutput, stop: StopToken) throws {
        let workers = max(1, output.options.jobs ?? ProcessFigures.processorCount)
        let (options, band) = try WeightCalibrator.share(checkpoint, output.plan, output.options)
        let configuration = try ModelConfiguration(config: checkpoint.config)
        let original = settings.keepsRouting ? try ForwardPass(checkpoint, tokens: tokens, passes: 2, options: options) : nil
        let calibrator = WeightCalibrator(
            checkpoint, plan: output.plan, settings: settings, statistics: statistics, workers: workers, bandMemory: band, stop: stop,
            router: original.map { pass in { try pass.isDone ? nil : pass.step() } }, keep: { try output.write($0, $1.parts) })
        let pass = try calibrator.replacing([configuration.weight(.embedding)]) {
            try ForwardPass(
                checkpoint, tokens: tokens, passes: original == nil ? 1 : 2, overlay: calibrator.overlay, observer: calibrator, options: options)
        }
        let passes = [pass, original].compactMap { $0 }
        if let file = try output.saved() { try Self.restore(passes, file) }
        while !pass.isDone {
            progress(pass.layer, pass.configuration.layers)
            // A dense layer has no routing to ask the original for.
            let before = original?.layer
            try pass.step()
            if let original, original.layer == before { try original.step() }
            // A layer that sees what an earlier one chose is no place to begin at.
            if pass.isResumable { try output.save { file in try Self.store(passes, file) } }
        }
        _ = try pass.multiTokenPrediction()
        finished(calibrator.report)
    }

    // MARK: Interruptions

    /// The number of the next layer, then the residual streams.
    private static func store(_ passes: [ForwardPass], _ file: PositionedFile) throws {
        try file.write(withUnsafeBytes(of: Int64(passes[0].layer).littleEndian) { Array($0) }, at: 0)
        var offset = 8
        for pass in passes {
            let bytes = UnsafeRawBufferPointer(start: pass.hidden.base, count: pass.hidden.rows * pass.hidden.columns * 4)
            try file.write(bytes, at: offset)
            offset += bytes.count
        }
    }

    private static func restore(_ passes: [ForwardPass], _ file: PositionedFile) throws {
        let size = passes[0].hidden.rows * passes[0].hidden.columns * 4
        guard try file.size() == 8 + size * passes.count else { return }
        let layer = Int(try file.read(8, at: 0).withUnsafeBytes { Int64(littleEndian: $0.loadUnaligned(as: Int64.self)) })
        guard (0...passes[0].configuration.layers).contains(layer), ForwardPass.isResumable(passes[0].configuration, at: layer) else { return }
        for (number, pass) in passes.enumerated() {
            let hidden = try Activations(rows: pass.hidden.rows, columns: pass.hidden.columns)
            let target = UnsafeMutableRawBufferPointer(start: hidden.base, count: size)
            guard try file.read(into: target, at: 8 + number * size) == size else { return }
            pass.resume(at: layer, hidden: hidden)
        }
    }
}
