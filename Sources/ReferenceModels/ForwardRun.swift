import Architectures
import Checkpoints
import Runtime
import Tensors

/// One checkpoint's forward pass over all sequences, in as many batches as the memory budget needs.
package struct ForwardRun {
    package let configuration: ModelConfiguration
    private let checkpoint: Checkpoint
    private let tokens: TokenBatch
    private let precision: Precision
    private let latentNorms: LatentNorms
    private let options: RunOptions

    package init(
        _ checkpoint: Checkpoint, tokens: TokenBatch, precision: Precision = .f32, latentNorms: LatentNorms = .transformers,
        options: RunOptions = RunOptions()
    ) throws {
        configuration = try ModelConfiguration(config: checkpoint.config)
        self.checkpoint = checkpoint
        self.tokens = tokens
        self.precision = precision
        self.latentNorms = latentNorms
        self.options = options
    }

    /// Hands logits, in the order of the tokens, to `observe` and with the hidden states to `file`.
    package func execute(into file: LogitsFile?, stop: StopToken = StopToken(), observe: (Activations) -> Void = { _ in }) throws {
        let workers = max(1, options.jobs ?? ProcessFigures.processorCount)
        for numbers in try ActivationBudget(configuration, tokens, workers: workers, memory: options.memory).batches {
            let batch = tokens.sequences(numbers)
            let pass = try ForwardPass(checkpoint, tokens: batch, precision: precision, latentNorms: latentNorms, options: options)
            try file?.add(hidden: pass.hidden, layer: 0, of: batch, firstSequence: numbers.lowerBound)
            while !pass.isDone {
                if stop.isStopped { throw ReferenceFailure.interrupted }
                try pass.step()
                try file?.add(hidden: pass.hidden, layer: pass.layer, of: batch, firstSequence: numbers.lowerBound)
            }
            for rows in TileSequence(rows: batch.count, step: pass.logitsChunk) {
                if stop.isStopped { throw ReferenceFailure.interrupted }
                let logits = try pass.logits(rows)
                try file?.add(logits: logits, rows: rows, of: batch, firstSequence: numbers.lowerBound)
                observe(logits)
            }
        }
        try file?.finish()
    }
}
