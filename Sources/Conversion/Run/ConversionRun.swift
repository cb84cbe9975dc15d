import Checkpoints
import Formats
import Synchronization
import Tensors

/// A plan being carried out: streaming, within a memory budget, journaled, resumable.
public struct ConversionRun: Sendable {
    public let plan: ConversionPlan
    public let checkpoint: Checkpoint
    public let options: RunOptions
    private let destination: Destination

    public init(plan: ConversionPlan, checkpoint: Checkpoint, destination: String, options: RunOptions = RunOptions()) {
        self.plan = plan
        self.checkpoint = checkpoint
        self.options = options
        self.destination = Destination(path: destination.count > 1 && destination.hasSuffix("/") ? String(destination.dropLast()) : destination)
    }

    /// Writes the output and audits it.
    ///
    /// The result depends on the plan only: not on jobs, memory, or how often the run was interrupted.
    /// - Throws: ``ConversionFailure``, `FileFailure`; what is under a final name by then is complete, the rest is resumable.
    public func execute(stop: StopToken = StopToken(), progress: (RunProgress) -> Void = { _ in }) throws -> RunReport {
        let started = ProcessFigures.now
        let workers = try workerCount()
        try refuseSource()
        // A new conversion is refused before its directory is made; a continued one once it is known what is left to write.
        if try !destination.hasUnfinishedWork(), !options.overwrite, !options.resume { try checkSpace(for: plan.outputBytes) }
        let (journal, finished): (Journal, Journal.State)
        switch try destination.prepare(plan, identity: identity(), options: options) {
        case .finished: return RunReport(plan: plan, checkpoint: checkpoint, records: [:], alreadyFinished: true)
        case .open(let opened, let state): (journal, finished) = (opened, state)
        }

        defer { journal.unlock() }
        let work = try Work(run: self, journal: journal, finished: finished)
        try checkSpace(for: work.bytesToWrite)
        let counters = RunCounters()
        counters.weightsDone.store(finished.audited.count, ordering: .relaxed)
        let memory = options.memory / workers
        do {
            try work.schedule.run(threads: workers, tick: { progress(snapshot(counters)) }) {
                work.loop(memory: memory, counters: counters, stop: stop)
            }
        } catch is CancellationError {
            try? journal.synchronize()
            throw ConversionFailure.interrupted(done: work.recordCount, total: plan.weights.count)
        }
        progress(snapshot(counters))
        var report = RunReport(plan: plan, checkpoint: checkpoint, records: work.records, alreadyFinished: false)
        try complete(report)
        report.bytesRead = counters.bytesRead.load(ordering: .relaxed)
        report.bytesWritten = counters.bytesWritten.load(ordering: .relaxed)
        report.seconds = ProcessFigures.now - started
        return report
    }

    /// Everything but the shards: side files, index, configuration, and last the manifest.
    private func complete(_ report: RunReport) throws {
        for name in plan.sideFiles { try destination.carryOver(name, from: checkpoint.directory) }
        for text in plan.texts { try destination.writeText(text.name, text.bytes) }
        try destination.writeText(Destination.manifestName, report.manifest)
        try FileTree.synchronizeDirectory(destination.path)
        try destination.removeWork()
    }

    /// As many workers as were asked for, or fewer if the budget is small.
    private func workerCount() throws -> Int {
        var needed = 0
        var largest = ""
        for planned in plan.weights {
            let converter = WeightConverter(checkpoint, planned)
            if converter.minimumBytes > needed { (needed, largest) = (converter.minimumBytes, converter.weight.name) }
        }
        guard needed <= options.memory else { throw ConversionFailure.memory(needed: needed, weight: largest, budget: options.memory) }
        let wished = max(1, options.jobs ?? ProcessFigures.processorCount)
        return min(wished, needed == 0 ? wished : options.memory / needed)
    }

    private func refuseSource() throws {
        if let target = FileTree.identity(destination.path), target == FileTree.identity(checkpoint.directory) {
            throw ConversionFailure.destinationIsSource(path: destination.path)
        }
    }

    private func checkSpace(for bytes: Int) throws {
        guard let free = FileTree.freeSpace(destination.path) else { return }
        // Side files, index and manifest take a little more.
        let needed = bytes + (1 << 20)
        if free < needed, bytes > 0 { throw ConversionFailure.noSpace(path: destination.path, needed: needed, free: free) }
    }

    /// The plan and the state of the source files, so that a changed source is not continued.
    private func identity() throws -> String {
        try Digest.of(([plan.fingerprint] + checkpoint.files.map { "\(try $0.modificationTime())" }).joined(separator: "\n"))
    }

    private func snapshot(_ counters: RunCounters) -> RunProgress {
        let shard = min(counters.shard.load(ordering: .relaxed), max(0, plan.shards.count - 1))
        return RunProgress(
            bytesWritten: counters.bytesWritten.load(ordering: .relaxed), bytesAudited: counters.bytesAudited.load(ordering: .relaxed),
            totalBytes: plan.outputBytes, weightsDone: counters.weightsDone.load(ordering: .relaxed), totalWeights: plan.weights.count,
            shard: plan.shards.isEmpty ? "" : plan.shards[shard].name)
    }

    /// What the workers of a run share.
    private final class Work: Sendable {
        let run: ConversionRun
        let journal: Journal
        let schedule: RunSchedule
        let bytesToWrite: Int
        private let sourceDigests: SourceDigests
        private let openShards = Mutex<[Int: PositionedFile]>([:])
        private let recorded: Mutex<[Int: WeightRecord]>

        var records: [Int: WeightRecord] { recorded.withLock { $0 } }
        var recordCount: Int { recorded.withLock { $0.count } }

        init(run: ConversionRun, journal: Journal, finished: Journal.State) throws {
            self.run = run
            self.journal = journal
            sourceDigests = try SourceDigests(of: run.checkpoint)
            let plan = run.plan
            var writes = Set<Int>()
            var audits = Set<Int>()
            var unfinished = Set<Int>()
            var kept: [Int: WeightRecord] = [:]
            var toWrite = 0
            for (number, shard) in plan.shards.enumerated() {
                func has(_ path: String) throws -> Bool {
                    if case .file(let size)? = try FileTree.entry(path) { size == shard.size } else { false }
                }
                let allAudited = shard.weights.allSatisfy { finished.audited[$0] != nil }
                if allAudited, try has(run.destination.file(shard.name)) {
                    for weight in shard.weights { kept[weight] = finished.audited[weight] }
                    continue
                }
                unfinished.insert(number)
                let inPlace = try has(run.destination.workFile(shard.name))
                if !inPlace { toWrite += shard.size }
                for weight in shard.weights {
                    if inPlace, let record = finished.audited[weight] {
                        kept[weight] = record
                    } else {
                        audits.insert(weight)
                        if !(inPlace && finished.written.contains(weight)) { writes.insert(weight) }
                    }
                }
            }
            bytesToWrite = toWrite
            recorded = Mutex(kept)
            schedule = RunSchedule(plan: plan, writes: writes, audits: audits, unfinished: unfinished)
        }

        /// One worker: takes steps until there are none.
        func loop(memory: Int, counters: RunCounters, stop: StopToken) {
            let arena = Arena(limit: memory)
            while let step = schedule.next() {
                do {
                    if stop.isStopped { throw CancellationError() }
                    try carryOut(step, arena, counters, stop)
                    schedule.completed(step)
                } catch {
                    schedule.fail(error)
                }
            }
        }

        private func carryOut(_ step: RunSchedule.Step, _ arena: Arena, _ counters: RunCounters, _ stop: StopToken) throws {
            let plan = run.plan
            switch step {
            case .write(let position):
                let planned = plan.weights[position]
                counters.shard.store(planned.shard, ordering: .relaxed)
                let converter = WeightConverter(run.checkpoint, planned)
                let file = try shardFile(planned.shard)
                try converter.write(
                    to: file, memory: arena.memory(atLeast: converter.minimumBytes, wanted: converter.preferredBytes), counters: counters, stop: stop)
                try journal.wrote(position)
            case .flush(let shard):
                try shardFile(shard).synchronize()
            case .audit(let position):
                let planned = plan.weights[position]
                let converter = WeightConverter(run.checkpoint, planned, sourceDigests: sourceDigests)
                let file = try shardFile(planned.shard)
                let (record, differences) = try converter.audit(
                    file, memory: arena.memory(atLeast: converter.minimumBytes, wanted: converter.preferredBytes), counters: counters, stop: stop)
                guard differences == 0 else {
                    try journal.rewrite(position)
                    throw ConversionFailure.differs(weight: converter.weight.name, file: file.path, bytes: differences)
                }
                recorded.withLock { $0[position] = record }
                try journal.audited(position, record)
                counters.weightsDone.add(1, ordering: .relaxed)
            case .finish(let shard):
                try finish(shard)
            }
        }

        /// The unfinished file of a shard, sized and with its header in place.
        private func shardFile(_ number: Int) throws -> PositionedFile {
            try openShards.withLock { open in
                if let file = open[number] { return file }
                let shard = run.plan.shards[number]
                let file = try PositionedFile.openForWriting(run.destination.workFile(shard.name))
                try file.resize(to: shard.size)
                try file.write(shard.header, at: 0)
                open[number] = file
                return file
            }
        }

        /// Reads the header back as any reader would, then gives the shard its final name.
        private func finish(_ number: Int) throws {
            let shard = run.plan.shards[number]
            let file = try shardFile(number)
            let header = try SafetensorsHeader(reading: file)
            guard header.tensors.count == shard.tensorCount else {
                throw ConversionFailure.differs(weight: "the header", file: file.path, bytes: shard.header.count)
            }
            try journal.synchronize()
            openShards.withLock { $0[number] = nil }
            try FileTree.rename(run.destination.workFile(shard.name), to: run.destination.file(shard.name))
            try FileTree.synchronizeDirectory(run.destination.path)
            try journal.finished(shard: number)
        }
    }

    /// One worker's memory, allocated as large as its weights need and never above its share of the budget.
    private final class Arena {
        private let limit: Int
        private var buffer = AlignedBuffer(byteCount: 64)

        init(limit: Int) { self.limit = limit }

        func memory(atLeast needed: Int, wanted: Int) -> UnsafeMutableRawBufferPointer {
            let wanted = min(limit, max(needed, wanted))
            if buffer.bytes.count < wanted { buffer = AlignedBuffer(byteCount: wanted) }
            return buffer.slice(0..<min(buffer.bytes.count, limit))
        }
    }
}
