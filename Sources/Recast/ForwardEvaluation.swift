import Calibration
import Checkpoints
import Parity
import Quantization
import ReferenceModels
import Runtime
import Tensors

/// A forward pass whose logits are to be written: all that `recast forward` takes.
public struct ForwardRequest: Sendable {
    /// A directory, a tensor file, or an index file.
    public var checkpoint: String
    /// The sequences to run.
    public var tokens: TokenSource
    /// The safetensors file to write: `logits` F32 [sequences, tokens, vocabulary].
    public var logits: String?
    /// A file for a compact form of the logits, for ``VerificationRequest/reference``.
    public var saveReference: String?
    /// Write the residual stream after every layer into ``logits`` too: `hidden.L` F32 [sequences, tokens, hidden].
    public var hiddenStates = false
    /// The arithmetic.
    public var precision = Precision.f32
    /// What the inner norms of latent attention add, where readers of the model differ.
    public var latentNorms = LatentNorms.transformers
    /// Memory and threads.
    public var options = RunOptions()

    /// A request with defaults for everything else.
    public init(_ checkpoint: String, tokens: TokenSource) {
        self.checkpoint = checkpoint
        self.tokens = tokens
    }
}

/// What a forward pass came to.
public struct ForwardReport: Sendable {
    /// Tokens that were run.
    public var tokens = 0
    /// Seconds, opening not counted.
    public var seconds = 0.0
    /// Positions whose logits are not finite. They are written all the same, for whoever looks for the cause.
    public var notFinite = 0
}

/// Runs the reference forward pass. Logits are bit-identical for any number of threads and any instruction set.
public enum ForwardEvaluation {
    /// - Returns: a work that ends when the files are written.
    /// - Throws: while iterated, a ``Failure``.
    public static func run(_ request: ForwardRequest) -> Work<LayerProgress, ForwardReport> {
        Work { stop, _ in
            for path in [request.logits, request.saveReference].compactMap({ $0 }) { try OutputPath.check(path) }
            MemoryBudget.process.restrict(to: request.options.memory)
            ProcessFigures.keepFreedMemory()
            let source = try Checkpoint(opening: request.checkpoint)
            let tokens = try request.tokens.read(tokenizerOf: source)
            let run = try ForwardRun(source, tokens: tokens, precision: request.precision, latentNorms: request.latentNorms, options: request.options)
            let started = ProcessFigures.now
            let file = try request.logits.map { try LogitsFile($0, run.configuration, tokens, hiddenStates: request.hiddenStates) }
            let recorder =
                request.saveReference == nil ? nil : try CompactReference.Recorder(tokens, vocabulary: run.configuration.vocabulary)
            var report = ForwardReport(tokens: tokens.count)
            do {
                try run.execute(into: file, stop: stop) { logits in
                    report.notFinite += logits.notFiniteRows
                    recorder?.add(logits)
                }
            } catch {
                file?.discard()
                throw error
            }
            _ = try source.source.conclude()
            if let path = request.saveReference { try recorder?.write(to: path) }
            report.seconds = ProcessFigures.now - started
            return report
        }
    }
}
