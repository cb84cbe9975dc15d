import Calibration
import Checkpoints
import Quantization
import ReferenceModels
import Runtime
import Tensors

/// Statistics of every weight's inputs that are to be collected: all that `recast calibrate` takes.
public struct StatisticsRequest: Sendable {
    /// A directory, a tensor file, or an index file.
    public var checkpoint: String
    /// The sequences to learn from.
    public var tokens: TokenSource
    /// The file to write, for ``ConversionRequest/statistics``; one that ends in `.gguf` is an importance matrix that llama-quantize takes too.
    public var output: String
    /// Memory and threads.
    public var options = RunOptions()

    /// A request with defaults for everything else.
    public init(_ checkpoint: String, tokens: TokenSource, output: String) {
        self.checkpoint = checkpoint
        self.tokens = tokens
        self.output = output
    }
}

/// What was collected.
public struct StatisticsReport: Sendable {
    /// Tokens that were run.
    public var tokens: Int
    /// Weights that have statistics.
    public var weights: Int
    /// The least number of tokens that reached a weight.
    public var fewestTokens: Int
    /// Weights that no token reached.
    public var unreached: Int
}

/// Collects what the quantizer `imatrix` asks for.
public enum StatisticsCollection {
    /// - Returns: a work that tells the layer it is at.
    /// - Throws: while iterated, a ``Failure``.
    public static func run(_ request: StatisticsRequest) -> Work<LayerProgress, StatisticsReport> {
        Work { stop, tell in
            try OutputPath.check(request.output)
            MemoryBudget.process.restrict(to: request.options.memory)
            ProcessFigures.keepFreedMemory()
            let checkpoint = try Checkpoint(opening: request.checkpoint)
            let tokens = try request.tokens.read(tokenizerOf: checkpoint)
            let statistics = try StatisticsPass.statistics(of: checkpoint, tokens: tokens, options: request.options, stop: stop) {
                tell(.progress(LayerProgress(layer: $0, layers: $1)))
            }
            _ = try checkpoint.source.conclude()
            if request.output.hasSuffix(".gguf") {
                let dataset = request.tokens.path.split(separator: "/").last.map(String.init) ?? ""
                try ImportanceMatrix.write(
                    statistics, roles: checkpoint.roles, tokens: tokens.count, dataset: dataset, to: request.output)
            } else {
                try statistics.write(to: request.output)
            }
            let counts = statistics.entries.values.map(\.count)
            return StatisticsReport(
                tokens: tokens.count, weights: counts.count, fewestTokens: counts.min() ?? 0, unreached: counts.count { $0 == 0 })
        }
    }
}
