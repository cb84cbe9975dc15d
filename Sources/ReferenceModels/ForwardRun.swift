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
            // A chunk is written while the next is computed.
            var finished: (logits: Activations, rows: Range<Int>)?
            for rows in TileSequence(rows: batch.count, step: pass.logitsChunk).map(Optional.some) + [nil] {
                if stop.isStopped { throw ReferenceFailure.interrupted }
                let previous = finished
                finished = try ParallelLoop.run(beside: {
                    guard let previous else { return }
                    try file?.add(logits: previous.logits, rows: previous.rows, of: batch, firstSequence: numbers.lowerBound)
                }) {
                    try rows.map { (try pass.logits($0), $0) }
                }
                if let previous { observe(previous.logits) }
            }
        }
        try file?.finish()
    }
}
