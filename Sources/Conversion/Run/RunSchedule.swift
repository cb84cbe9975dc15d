import Foundation

/// Hands out the steps of a run. A shard's weights are written, the shard is flushed, its weights are audited, and then it
/// gets its final name; shards later in the plan go on meanwhile.
///
/// A file system lets one thread at a time write a file, so every worker has a shard of its own to write while there are enough of them; when
/// there are not, workers help where most is left.
final class RunSchedule: @unchecked Sendable {
    enum Step {
        case write(Int)
        case flush(shard: Int)
        case audit(Int)
        case finish(shard: Int)
    }

    /// Invariant: everything below is touched only while `condition` is locked.
    private let condition = NSCondition()
    /// Of each shard: weights to be written, the next one last.
    private var writes: [[Int]]
    /// The shards before it are written by somebody.
    private var untouched = 0
    private var urgent: [Step] = []
    private var writesLeft: [Int]
    private var auditsLeft: [Int]
    private let auditsOfShard: [[Int]]
    private let shardOfWeight: [Int]
    private var active = 0
    private var failure: (any Error)?
    private var workers = 0

    /// Whether all workers write one shard: what of a source elsewhere was read for it is at hand when it is audited.
    private let isFocused: Bool

    /// - Parameters:
    ///   - writes: weights still to be written; `audits`: weights still to be audited, the former included.
    ///   - shards: for each shard whether it still needs its final name.
    init(plan: ConversionPlan, writes: Set<Int>, audits: Set<Int>, unfinished: Set<Int>, isFocused: Bool = false) {
        self.isFocused = isFocused
        shardOfWeight = plan.weights.map(\.shard)
        var written = [[Int]](repeating: [], count: plan.shards.count)
        for weight in plan.weights.indices.reversed() where writes.contains(weight) { written[shardOfWeight[weight]].append(weight) }
        self.writes = written
        writesLeft = written.map(\.count)
        var audited = [[Int]](repeating: [], count: plan.shards.count)
        for weight in plan.weights.indices where audits.contains(weight) { audited[shardOfWeight[weight]].append(weight) }
        auditsOfShard = audited
        auditsLeft = audited.map(\.count)
        urgent = unfinished.filter { writesLeft[$0] == 0 }.sorted().reversed().map { .flush(shard: $0) }
    }

    /// The next step; nil when there is nothing left or the run failed.
    /// - Parameter shard: the one that the calling worker writes, which stays its own until all of it is begun.
    func next(writing shard: inout Int?) -> Step? {
        condition.lock()
        defer { condition.unlock() }
        while failure == nil {
            if let step = urgent.popLast() {
                active += 1
                return step
            }
            if let weight = nextWrite(&shard) {
                active += 1
                return .write(weight)
            }
            if active == 0 { break }
            condition.wait()
        }
        condition.broadcast()
        return nil
    }

    private func nextWrite(_ shard: inout Int?) -> Int? {
        if let own = shard, let weight = writes[own].popLast() { return weight }
        while untouched < writes.count, writes[untouched].isEmpty { untouched += 1 }
        shard = untouched < writes.count ? untouched : writes.indices.max { writes[$0].count < writes[$1].count }
        if !isFocused { untouched += 1 }
        return shard.flatMap { writes[$0].popLast() }
    }

    /// Says that a step is done and releases those that waited for it.
    func completed(_ step: Step) {
        condition.lock()
        defer { condition.unlock() }
        active -= 1
        switch step {
        case .write(let weight):
            let shard = shardOfWeight[weight]
            writesLeft[shard] -= 1
            if writesLeft[shard] == 0 { urgent.append(.flush(shard: shard)) }
        case .flush(let shard):
            urgent += auditsOfShard[shard].reversed().map { .audit($0) }
            if auditsLeft[shard] == 0 { urgent.append(.finish(shard: shard)) }
        case .audit(let weight):
            let shard = shardOfWeight[weight]
            auditsLeft[shard] -= 1
            if auditsLeft[shard] == 0 { urgent.append(.finish(shard: shard)) }
        case .finish: break
        }
        condition.broadcast()
    }

    /// Ends the run: the first failure counts.
    func fail(_ error: any Error) {
        condition.lock()
        failure = failure ?? error
        active -= 1
        condition.broadcast()
        condition.unlock()
    }

    /// Runs `body` on `count` threads of its own and calls `tick` until all have returned. Throws the first failure.
    func run(threads count: Int, tick: () -> Void, _ body: @escaping @Sendable () -> Void) throws {
        workers = count
        for _ in 0..<count {
            let thread = Thread { [self] in
                body()
                condition.lock()
                workers -= 1
                condition.broadcast()
                condition.unlock()
            }
            thread.stackSize = 1 << 20
            thread.start()
        }
        condition.lock()
        while workers > 0 {
            if !condition.wait(until: Date(timeIntervalSinceNow: 0.1)) {
                condition.unlock()
                tick()
                condition.lock()
            }
        }
        condition.unlock()
        if let failure { throw failure }
    }
}
