import Checkpoints
import Formats
import Quantization
import Runtime
import StrictJSON
import Synchronization
import Tensors

/// A plan being carried out: streaming, within a memory budget, journaled, resumable.
package struct ConversionRun: Sendable {
    package let plan: ConversionPlan
    package let checkpoint: Checkpoint
    package let options: RunOptions
    private(set) var destination: Destination
    /// For weights whose quantizer asks for it.
    let statistics: InputStatistics?
    private let calibration: (any CalibrationStage)?
    /// The part of a divided run, and how the run was asked for.
    private let part: Part?
    private let request: JSONValue?
    /// What is freed of the source on the way; nil to leave it as it is.
    let consumable: ConsumableSource?
    /// What this run writes: all, or the part's.
    let shards: Set<Int>

    /// - Parameters:
    ///   - part: write the files of this part only, and leave index, configuration and manifest to ``join(stop:)``.
    ///   - request: how a divided run was asked for, as ``dividedRequest(_:)`` gives it back.
    ///   - statistics: for the importance of columns.
    ///   - consumable: what may be freed of the source on the way.
    ///   - calibration: writes the plan's ``ConversionPlan/calibrated`` weights, as many as it can; the others are quantized without.
    package init(
        plan: ConversionPlan, checkpoint: Checkpoint, destination: String, statistics: InputStatistics? = nil,
        calibration: (any CalibrationStage)? = nil, part: Part? = nil, request: JSONValue? = nil, consumable: ConsumableSource? = nil,
        options: RunOptions = RunOptions()
    ) {
        self.consumable = consumable
        self.part = part
        self.request = request
        shards = part?.shards(of: plan) ?? Set(plan.shards.indices)
        self.statistics = statistics
        self.calibration = calibration
        self.plan = plan
        self.checkpoint = checkpoint
        self.options = options
        self.destination = Destination(destination, isSingleFile: plan.output.isSingleFile, part: part)
    }

    private var weightCount: Int { shards.reduce(0) { $0 + plan.shards[$1].weights.count } }
    private var ownBytes: Int { shards.reduce(0) { $0 + plan.shards[$1].size } }

    /// How the run that is divided in a destination was asked for; nil if there is none.
    package static func dividedRequest(_ destination: String) throws -> JSONValue? {
        try Destination(destination, isSingleFile: false).dividedRequest()
    }

    /// Whether a conversion was finished in a directory, and its files are there.
    package static func isFinished(_ destination: String) throws -> Bool { try Destination(destination, isSingleFile: false).isFinished() }

    /// Joins the parts of a divided run: side files, index, configuration and manifest, once every part has written and audited its files.
    /// - Throws: ``ConversionFailure/unfinishedParts(_:of:path:)`` if one has not.
    package func join(stop: StopToken = StopToken()) throws -> RunReport {
        var run = self
        return try run.gathered(stop)
    }

    private mutating func gathered(_ stop: StopToken) throws -> RunReport {
        let started = ProcessFigures.now
        try refuseSource()
        guard let (records, lock) = try destination.gather(plan, identity: identity(SourceVersions(of: checkpoint)), stop: stop) else {
            var report = RunReport(plan: plan, checkpoint: checkpoint, records: [:], alreadyFinished: true)
            report.outputBytes = try outputBytes()
            return report
        }
        defer { lock.release() }
        var report = RunReport(plan: plan, checkpoint: checkpoint, records: records, alreadyFinished: false)
        report.note(lock.notice)
        try complete(&report, lock, stop)
        report.outputBytes = try outputBytes()
        report.seconds = ProcessFigures.now - started
        return report
    }

    /// Writes the output and audits it.
    ///
    /// The result depends on the plan only: not on jobs, memory, or how often the run was interrupted.
    /// - Throws: ``ConversionFailure``, `FileFailure`; what is under a final name by then is complete, the rest is resumable.
    package func execute(stop: StopToken = StopToken(), progress: (RunProgress) -> Void = { _ in }) throws -> RunReport {
        var run = self
        return try run.carryOut(stop, progress)
    }

    private mutating func carryOut(_ stop: StopToken, _ progress: (RunProgress) -> Void) throws -> RunReport {
        let started = ProcessFigures.now
        let workers = try workerCount()
        try refuseSource()
        try calibration?.check(plan, options)
        // A new conversion is refused before its directory is made; a continued one once it is known what is left to write.
        if try !destination.hasUnfinishedWork(), !options.overwrite, !options.resume {
            if try !destination.isFinished() {
                try consumable?.requireSources(of: Set(plan.weights.indices), plan, checkpoint)
            }
            try checkSpace(for: bytesAtOnce(of: shards, workers) + plan.spaceBeside(workers: workers))
        }
        let (journal, finished, lock): (Journal, Journal.State, RunLock)
        let found = try SourceVersions(of: checkpoint)
        let identity = identity(found)
        switch try prepare(identity, stop) {
        case .finished:
            var report = RunReport(plan: plan, checkpoint: checkpoint, records: [:], alreadyFinished: true)
            report.outputBytes = try outputBytes()
            return report
        case .open(let opened, let state, let taken): (journal, finished, lock) = (opened, state, taken)
        }
        defer { lock.release() }
        var state = finished
        if let calibration, !state.isCalibrationDone { state = try calibrate(calibration, found, journal, state, stop) }
        let work = try RunWork(run: self, found: found, journal: journal, finished: state)
        try work.consumeReady()
        let atOnce = min(work.bytesToWrite, bytesAtOnce(of: work.unfinished, staged: work.staged, workers))
        try checkSpace(for: work.bytesToWrite == 0 ? 0 : atOnce + plan.spaceBeside(workers: workers))
        let counters = RunCounters()
        counters.weightsDone.store(finished.audited.count, ordering: .relaxed)
        let memory = options.memory / workers
        do {
            try work.schedule.run(
                threads: workers,
                tick: {
                    lock.keepFresh()
                    progress(snapshot(counters))
                }
            ) {
                work.loop(memory: memory, workers: workers, counters: counters, stop: stop)
            }
        } catch {
            // What is known to be wrong by now must not be continued, whatever ended the run.
            try refuseDamage()
            guard error is CancellationError else { throw error }
            try? journal.synchronize()
            throw ConversionFailure.interrupted(done: work.recordCount, total: weightCount)
        }
        progress(snapshot(counters))
        var report = RunReport(
            plan: plan, checkpoint: checkpoint, records: work.records, calibrated: Set(state.calibrated.keys), part: part,
            alreadyFinished: false)
        report.note(lock.notice)
        let mended = counters.weightsMended.load(ordering: .relaxed)
        report.note(
            mended == 0
                ? nil : "\(mended.grouped) weights that an earlier run had written were damaged, as after a power loss, and were written again")
        report.freedBytes = work.freed.bytes
        report.note(consumable == nil ? nil : consumptionNote(work))
        // The journal of a part stays for the one that joins them.
        if part == nil {
            try complete(&report, lock, stop)
        } else {
            try prove(&report)
            try journal.synchronize()
        }
        report.outputBytes = try outputBytes()
        report.bytesRead = counters.bytesRead.load(ordering: .relaxed)
        report.bytesWritten = counters.bytesWritten.load(ordering: .relaxed)
        report.seconds = ProcessFigures.now - started
        return report
    }

    /// Opens the destination. Where parts of the source have been freed, what is there may be all that is left of them.
    private mutating func prepare(_ identity: String, _ stop: StopToken) throws -> Destination.State {
        do { return try destination.prepare(plan, identity: identity, request: request, options: options, stop: stop) } catch let failure
            as ConversionFailure
        {
            if consumable?.consumed.isEmpty == false, case .destinationNotEmpty(let path, let reason) = failure {
                throw ConversionFailure.notContinued(path: path, reason: reason)
            }
            throw failure
        }
    }

    /// Runs the calibration stage; what comes back is the journal's state after it.
    private func calibrate(
        _ stage: any CalibrationStage, _ found: SourceVersions, _ journal: Journal, _ finished: Journal.State, _ stop: StopToken
    ) throws -> Journal.State {
        var state = finished
        let work = try RunWork(run: self, found: found, journal: journal, finished: finished)
        try checkSpace(for: work.bytesToWrite)
        let output = CalibrationOutput(work: work, statePath: destination.workFile("calibration.state"), options: options)
        if try FileTree.entry(output.statePath) != nil, try !work.hasShardFiles(of: Array(state.calibrated.keys)) {
            try FileTree.remove(output.statePath)
            state.calibrated = [:]
        }
        do {
            try stage.run(into: output, stop: stop)
        } catch {
            try refuseDamage()
            guard error is CancellationError else { throw error }
            try? journal.synchronize()
            throw ConversionFailure.interrupted(done: 0, total: plan.weights.count)
        }
        try work.synchronizeShards()
        try journal.calibrationDone()
        if try FileTree.entry(output.statePath) != nil { try FileTree.remove(output.statePath) }
        state.calibrated.merge(work.calibrated) { $1 }
        state.isCalibrationDone = true
        return state
    }

    /// Says how far the bytes of the source are known to be those that were published.
    private func prove(_ report: inout RunReport) throws {
        for text in try refuseDamage() { report.note(text) }
    }

    /// What was made of a damaged file cannot be told from the rest: nothing of it is continued.
    @discardableResult private func refuseDamage() throws -> [String] {
        do { return try checkpoint.source.conclude() } catch {
            try? destination.forget()
            throw error
        }
    }

    private func outputBytes() throws -> Int {
        try shards.reduce(0) { sum, shard in
            if case .file(let size)? = try FileTree.entry(destination.file(plan.shards[shard].name)) { sum + size } else { sum }
        }
    }

    /// Everything but the shards: side files, index, configuration, and last the manifest.
    private func complete(_ report: inout RunReport, _ lock: RunLock, _ stop: StopToken) throws {
        // In a single file they are inside.
        if !plan.output.isSingleFile {
            do {
                for file in plan.sideFiles { try destination.carryOver(file, stop: stop) }
            } catch is CancellationError {
                throw ConversionFailure.interrupted(done: plan.weights.count, total: plan.weights.count)
            }
            for text in plan.texts { try destination.writeText(text.name, text.bytes) }
        }
        try prove(&report)
        // The manifest says that all is there, so all must be durable before it is.
        try FileTree.synchronizeDirectory(destination.directory)
        let sizes = try plan.shards.map { shard in
            guard case .file(let size)? = try FileTree.entry(destination.file(shard.name)) else {
                throw ConversionFailure.lost(destination.file(shard.name))
            }
            return size
        }
        try destination.writeText(destination.manifestName, report.manifest(sizes: sizes))
        try FileTree.synchronizeDirectory(destination.directory)
        if Durability.wasUnavailable {
            report.note("the file system has no fsync: what was written may be lost if the power fails before it is flushed")
        }
        try destination.removeWork(lock)
    }

    /// As many workers as were asked for, or fewer if the budget is small.
    private func workerCount() throws -> Int {
        var needed = 0
        var largest = ""
        for planned in plan.weights {
            let converter = WeightConverter(checkpoint, planned, statistics: statistics)
            if converter.minimumBytes > needed { (needed, largest) = (converter.minimumBytes, converter.weight.name) }
        }
        guard needed <= options.memory else { throw ConversionFailure.memory(needed: needed, weight: largest, budget: options.memory) }
        let wished = max(1, options.jobs ?? ProcessFigures.processorCount)
        return min(wished, needed == 0 ? wished : options.memory / needed)
    }

    /// What files take at once while they are written: all of their bytes, unless the source makes room.
    private func bytesAtOnce(of shards: Set<Int>, staged: Set<Int> = [], _ workers: Int) -> Int {
        let all = shards.subtracting(staged).reduce(0) { $0 + plan.shards[$1].size }
        guard let consumable, FileTree.identity(consumable.directory)?.first == FileTree.identity(existing(destination.directory))?.first else {
            return all
        }
        return min(all, consumable.peakBytes(plan, unfinished: shards, staged: staged, workers: workers))
    }

    /// The path itself, or the nearest above it that is there.
    private func existing(_ path: String) -> String {
        var path = path
        while FileTree.identity(path) == nil, path != "/", path != "." { path = FileTree.directory(of: path) }
        return path
    }

    private func consumptionNote(_ work: RunWork) -> String {
        let (files, bytes) = work.freed
        guard !Durability.wasUnavailable else { return "nothing of the source was freed: without fsync nobody knows what is durable" }
        return
            "\(ByteSize(bytes)) of the source were freed; what is left of its \(files.grouped) files is called *\(ConsumedName.infix)* and can be removed"
    }

    private func refuseSource() throws {
        let target = plan.output.isSingleFile ? destination.path : destination.directory
        let sources = plan.output.isSingleFile ? checkpoint.files.flatMap(\.files).map(\.path) : [checkpoint.directory]
        if let identity = FileTree.identity(target), sources.contains(where: { FileTree.identity($0) == identity }) {
            throw ConversionFailure.destinationIsSource(path: destination.path)
        }
    }

    private func checkSpace(for bytes: Int) throws {
        guard !options.isSparse, let free = FileTree.freeSpace(destination.path) else { return }
        // Side files, index and manifest take a little more.
        let needed = bytes + (1 << 20)
        if free < needed, bytes > 0 { throw ConversionFailure.noSpace(path: destination.path, needed: needed, free: free) }
    }

    /// The plan and the state of the source files, so that a changed source is not continued.
    private func identity(_ found: SourceVersions) -> String {
        Digest.of(([plan.fingerprint] + found.all).joined(separator: "\n"))
    }

    private func snapshot(_ counters: RunCounters) -> RunProgress {
        let shard = min(counters.shard.load(ordering: .relaxed), max(0, plan.shards.count - 1))
        return RunProgress(
            bytesWritten: counters.bytesWritten.load(ordering: .relaxed), bytesAudited: counters.bytesAudited.load(ordering: .relaxed),
            totalBytes: ownBytes, weightsDone: counters.weightsDone.load(ordering: .relaxed), totalWeights: weightCount,
            shard: plan.shards.isEmpty ? "" : plan.shards[shard].name)
    }
}
