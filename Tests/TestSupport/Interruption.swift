import Foundation
import Recast
import Testing

/// Runs a conversion with one worker and stops it after so many lines of its journal: always at the same place.
/// - Returns: false if it was finished before.
package func interruptedConversion(
    _ source: String, _ destination: String, to target: String, container: any Container.Type = Safetensors.self, afterJournalLines lines: Int
) throws -> Bool {
    let checkpoint = try Checkpoint(opening: source)
    let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target), output: OutputOptions(container: container))
    let stop = StopToken(afterEvents: lines)
    do {
        _ = try ConversionRun(plan: plan, checkpoint: checkpoint, destination: destination, options: RunOptions(jobs: 1)).execute(stop: stop)
        return false
    } catch let failure as ConversionFailure {
        #expect(failure.kind == .interrupted)
        return true
    }
}
