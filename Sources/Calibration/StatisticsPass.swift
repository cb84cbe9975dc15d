import Architectures
import Checkpoints
import Conversion
import Formats
import Quantization
import ReferenceModels
import Runtime
import Tensors

/// Collects what ``InputStatistics`` keep, in one forward pass of the model as it is.
package final class StatisticsPass: WeightObserver {
    private var statistics = InputStatistics()
    private let stop: StopToken

    private init(_ stop: StopToken) { self.stop = stop }

    package static func statistics(
        of checkpoint: Checkpoint, tokens: TokenBatch, options: RunOptions = RunOptions(), stop: StopToken = StopToken(),
        progress: (_ layer: Int, _ layers: Int) -> Void = { _, _ in }
    ) throws -> InputStatistics {
        let observer = StatisticsPass(stop)
        let pass = try ForwardPass(checkpoint, tokens: tokens, observer: observer, options: options)
        while !pass.isDone {
            progress(pass.layer, pass.configuration.layers)
            try pass.step()
        }
        _ = try pass.multiTokenPrediction()
        return observer.statistics
    }

    package func willUse(_ names: [String], inputs: ObservedInputs, pooled: ObservedInputs?) throws {
        if stop.isStopped { throw ReferenceFailure.interrupted }
        var moments = InputMoments(columns: inputs.columns)
        try inputs.visit { moments.add(InputRows($0)) }
        let entry = InputStatistics.Entry(moments)
        for name in names { statistics.add(String(WeightName.module(name)), entry) }
    }

    package func didUse(_ names: [String]) {}
    package func routing(layer: Int) -> Routing? { nil }
}
