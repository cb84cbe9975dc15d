import ArgumentParser
import Recast

@main
struct RecastBenchmarks: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recast-benchmarks", abstract: "Speed as ratios measured in one run: kernels to memcpy, conversions to cp.",
        subcommands: [KernelBenchmark.self, ConversionBenchmark.self, ArchiveBenchmark.self])
}

/// Times work in turns, so that a machine whose speed drifts slows all of it alike.
enum Turns {
    /// The median seconds of each piece of work over `rounds` rounds, after one round that does not count.
    static func medians(rounds: Int, _ work: [() -> Void]) -> [Double] {
        var times = [[Double]](repeating: [], count: work.count)
        for round in 0...rounds {
            for (index, piece) in work.enumerated() {
                let start = ProcessFigures.now
                piece()
                if round > 0 { times[index].append(ProcessFigures.now - start) }
            }
        }
        return times.map { $0.sorted()[rounds / 2] }
    }
}

extension Double {
    func rounded(to digits: Int) -> Double {
        let factor = [1.0, 10, 100, 1000, 10000][digits]
        return (self * factor).rounded() / factor
    }
}
