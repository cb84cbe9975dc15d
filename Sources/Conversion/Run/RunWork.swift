import Checkpoints
import Formats
import Runtime
import Tensors

/// What the workers of a run share: which steps are left, the open files, and the records so far.
final class RunWork: Sendable {
    let run: ConversionRun
    let journal: Journal
    let schedule: RunSchedule
    let bytesToWrite: Int
    private let sourceDigests: SourceDigests
    /// Weights that an earlier run wrote and this one only audits: a crash may have taken their bytes.
    private let inherited: Set<Int>
    private let openShards = Lock<[Int: PositionedFile]>([:])
    /// Shards that were cloned whole from a source file: nothing is left to write.
    private let cloned = Lock<Set<Int>>([])
    private let packed = Lock<[Int: PackedShard]>([:])
    /// One shard is packed at a time, by as many threads as the run has.
    private let packing = Lock(())
    private let recorded: Lock<[Int: WeightRecord]>
    /// Output files that this run has to finish.
    let unfinished: Set<Int>
    /// Those of them whose files have their size already.
    let staged: Set<Int>
    private let consumption: SourceConsumption?
    private let found: SourceVersions
    private let writtenRanges = SharedRanges()
    private let auditedRanges = SharedRanges()
    /// Weights that the calibration stage wrote, with the digests of their tensors.
    private let calibratedDigests: Lock<[Int: [String]]>

    /// A finished file of another container, and where its tensors lie.
    private struct PackedShard: Sendable {
        var bytes: any ByteSource
        /// By tensor name: its place in ``bytes`` less its place in the safetensors file.
        var shifts: [String: Int]
    }

    var records: [Int: WeightRecord] { recorded.withLock { $0 } }
    var recordCount: Int { recorded.withLock { $0.count } }
    var calibrated: [Int: [String]] { calibratedDigests.withLock { $0 } }
    private var plan: ConversionPlan { run.plan }
    private var packs: Bool { plan.output.container is any PackedContainer.Type }

    init(run: ConversionRun, found: SourceVersions, journal: Journal, finished: Journal.State) throws {
        self.run = run
        self.journal = journal
        sourceDigests = try SourceDigests(of: run.checkpoint)
        self.found = found
        calibratedDigests = Lock(finished.calibrated)
        let plan = run.plan
        let packs = plan.output.container is any PackedContainer.Type
        var writes = Set<Int>()
        var audits = Set<Int>()
        var unfinished = Set<Int>()
        var inPlaces = Set<Int>()
        var kept: [Int: WeightRecord] = [:]
        var toWrite = 0
        for (number, shard) in plan.shards.enumerated() where run.shards.contains(number) {
            /// A packed file's size is not known beforehand; it gets its name when it is complete.
            func has(_ path: String, packed: Bool) throws -> Bool {
                if case .file(let size)? = try FileTree.entry(path) { packed || size == shard.size } else { false }
            }
            let allAudited = shard.weights.allSatisfy { finished.audited[$0] != nil }
            if allAudited, try has(run.destination.file(shard.name), packed: packs) {
                for weight in shard.weights { kept[weight] = finished.audited[weight] }
                continue
            }
            unfinished.insert(number)
            let isPacked = try packs && has(run.destination.unfinishedFile(shard.name), packed: true)
            let staged = try has(run.destination.stageFile(shard, packs: packs), packed: false)
            // What a copy of a source file is packed from is that file.
            let inPlace = isPacked || staged || packs && shard.copiedFile != nil
            if !inPlace || !isPacked && packs { toWrite += shard.size } else { inPlaces.insert(number) }
            for weight in shard.weights {
                if isPacked || !packs && staged, let record = finished.audited[weight] {
                    kept[weight] = record
                } else {
                    audits.insert(weight)
                    let isWritten =
                        isPacked || packs && shard.copiedFile != nil || staged && finished.written.contains(weight)
                        || finished.isCalibrationDone && finished.calibrated[weight] != nil
                    if !isWritten { writes.insert(weight) }
                }
            }
        }
        bytesToWrite = toWrite
        recorded = Lock(kept)
        inherited = audits.subtracting(writes)
        self.unfinished = unfinished
        self.staged = inPlaces
        try run.consumable?.requireSources(of: audits, plan, run.checkpoint)
        consumption = try run.consumable.map {
            try SourceConsumption(
                $0, of: run.checkpoint, destination: run.destination.directory, unfinished: unfinished)
        }
        schedule = RunSchedule(plan: plan, writes: writes, audits: audits, unfinished: unfinished, isFocused: run.checkpoint.source.isRemote)
    }

    /// One worker: takes steps until there are none.
    func loop(memory: Int, workers: Int, counters: RunCounters, stop: StopToken) {
        let arena = Arena(limit: memory)
        var shard: Int?
        while let step = schedule.next(writing: &shard) {
            do {
                if stop.isStopped { throw CancellationError() }
                try carryOut(step, arena, workers, counters, stop)
                schedule.completed(step)
            } catch {
                schedule.fail(error)
            }
        }
    }

    private func carryOut(_ step: RunSchedule.Step, _ arena: Arena, _ workers: Int, _ counters: RunCounters, _ stop: StopToken) throws {
        switch step {
        case .write(let position):
            let planned = plan.weights[position]
            counters.shard.store(planned.shard, ordering: .relaxed)
            let converter = converter(position, writtenRanges)
            let file = try shardFile(planned.shard)
            if cloned.withLock({ $0.contains(planned.shard) }) {
                counters.bytesWritten.add(planned.tensors.reduce(0) { $0 + $1.byteCount }, ordering: .relaxed)
            } else {
                try converter.write(to: file, memory: arena.memory(for: converter), counters: counters, stop: stop)
            }
            try journal.wrote(position)
        case .flush(let shard):
            if packs {
                try mendStage(of: shard, arena, counters, stop)
                try pack(shard, arena.limit, workers, counters, stop)
            } else {
                try flush(shard)
            }
        case .audit(let position):
            let planned = plan.weights[position]
            let converter = converter(position, auditedRanges)
            let (file, offsets) = try written(planned)
            let digests = calibratedDigests.withLock { $0[position] }
            let memory = try arena.memory(for: converter)
            var (record, differences) = try converter.audit(
                file, offsets: offsets, against: digests, memory: memory, counters: counters, stop: stop)
            if differences != 0, digests == nil, !packs, inherited.contains(position) {
                // The run before ended with a crash, and what it wrote never reached the disk.
                let shard = try shardFile(planned.shard)
                try converter.write(to: shard, memory: memory, counters: counters, stop: stop)
                try shard.synchronize()
                counters.weightsMended.add(1, ordering: .relaxed)
                (record, differences) = try converter.audit(
                    file, offsets: offsets, against: digests, memory: memory, counters: counters, stop: stop)
            }
            guard differences == 0 else {
                // A source that is another by now is no fault of the disk.
                try requireUnchangedSource(of: planned.shard)
                try digests == nil ? journal.rewrite(position) : journal.calibrationVoid()
                // What the file was packed from may be at fault, so both are made again.
                if packs { try FileTree.remove(run.destination.unfinishedFile(plan.shards[planned.shard].name)) }
                throw ConversionFailure.differs(weight: converter.weight.name, file: file.path, bytes: differences)
            }
            guard record.notFinite == 0 || run.options.allowsNonFinite || plan.isCopy else {
                throw ConversionFailure.carriesNotFinite(
                    weight: converter.weight.name, count: record.notFinite, file: run.checkpoint.fileName(of: converter.weight))
            }
            recorded.withLock { $0[position] = record }
            try journal.audited(position, record)
            counters.weightsDone.add(1, ordering: .relaxed)
        case .finish(let shard):
            try requireUnchangedSource(of: shard)
            try finish(shard, stop)
        }
    }

    private func converter(_ position: Int, _ ranges: SharedRanges) -> WeightConverter {
        WeightConverter(
            run.checkpoint, plan.weights[position], sourceDigests: sourceDigests, statistics: run.statistics,
            allowsNonFinite: run.options.allowsNonFinite || plan.isCopy, isSparse: run.options.isSparse, isPacked: packs, ranges: ranges)
    }

    /// Makes a shard's bytes durable. After a failed flush nobody knows which of them reached the disk, and asking again says nothing: the next
    /// run writes the shard anew.
    private func flush(_ number: Int) throws {
        let file = try shardFile(number)
        do { try file.synchronize() } catch {
            try? FileTree.remove(file.path)
            throw error
        }
    }

    /// The unfinished file of a shard, sized and with all in place but its tensors.
    func shardFile(_ number: Int) throws -> PositionedFile {
        try openShards.withLock { open in
            if let file = open[number] { return file }
            let shard = plan.shards[number]
            let path = run.destination.stageFile(shard, packs: packs)
            let isNew = try FileTree.entry(path) == nil
            // What the journal says of a file that is gone does not hold for the one that takes its name.
            if isNew { try journal.startsAnew(number, weights: shard.weights) }
            let file = try PositionedFile.openForWriting(path, isSparse: run.options.isSparse)
            if isNew, let copied = shard.copiedFile, let source = run.checkpoint.files[copied].stored(shard.size, at: 0), source.offset == 0,
                source.file.clone(to: file)
            {
                _ = cloned.withLock { $0.insert(number) }
            } else {
                try file.resize(to: shard.size)
                for piece in shard.pieces { try file.write(piece.bytes, at: piece.offset) }
            }
            open[number] = file
            return file
        }
    }

    // MARK: Calibration

    func noteCalibrated(_ position: Int, _ digests: [String]) { calibratedDigests.withLock { $0[position] = digests } }

    func synchronizeShards() throws {
        for file in openShards.withLock({ Array($0.values) }) { try file.synchronize() }
    }

    /// Whether the unfinished files that hold some weights are still there.
    func hasShardFiles(of positions: [Int]) throws -> Bool {
        try Set(positions.map { plan.weights[$0].shard }).allSatisfy { number in
            let shard = plan.shards[number]
            if case .file(let size)? = try FileTree.entry(run.destination.stageFile(shard, packs: packs)) { return size == shard.size }
            return false
        }
    }

    // MARK: Other containers

    /// What an earlier run left to be packed may never have reached the disk. A packed file that shows it has to be packed again, so it is
    /// looked at before.
    private func mendStage(of number: Int, _ arena: Arena, _ counters: RunCounters, _ stop: StopToken) throws {
        let shard = plan.shards[number]
        guard shard.copiedFile == nil, try FileTree.entry(run.destination.unfinishedFile(shard.name)) == nil else { return }
        for position in shard.weights where inherited.contains(position) && calibratedDigests.withLock({ $0[position] == nil }) {
            let converter = converter(position, auditedRanges)
            let memory = try arena.memory(for: converter)
            let file = try shardFile(number)
            let offsets = plan.weights[position].tensors.map(\.offset)
            // What was read is counted once, by the audit of the packed file.
            let (_, differences) = try converter.audit(file, offsets: offsets, against: nil, memory: memory, counters: RunCounters(), stop: stop)
            guard differences != 0 else { continue }
            try converter.write(to: file, memory: memory, counters: counters, stop: stop)
            counters.weightsMended.add(1, ordering: .relaxed)
        }
    }

    /// Turns the finished safetensors file of a shard into a file of the output's container.
    private func pack(_ number: Int, _ memory: Int, _ workers: Int, _ counters: RunCounters, _ stop: StopToken) throws {
        guard let container = plan.output.container as? any PackedContainer.Type else { return }
        let shard = plan.shards[number]
        if try FileTree.entry(run.destination.unfinishedFile(shard.name)) != nil { return }
        let source = try Safetensors.open(bytes: shard.copiedFile.map { run.checkpoint.files[$0] } ?? shardFile(number))
        let output = plan.output
        let options = PackingOptions(
            memory: memory, workers: workers, keepsByteOrder: output.keepsByteOrder, filter: output.filter,
            attachments: output.isSingleFile ? try attachments() : [],
            checkpoint: { if stop.isStopped { throw CancellationError() } })
        let temporary = run.destination.unfinishedFile(shard.name + ".packing")
        try packing.withLock { _ in try container.pack(source, to: temporary, options) }
        try FileTree.rename(temporary, to: run.destination.unfinishedFile(shard.name))
        if shard.copiedFile != nil { counters.bytesWritten.add(shard.size, ordering: .relaxed) }
    }

    /// What a checkpoint that is one file carries inside: tokenizers and configurations, which the plan has measured.
    private func attachments() throws -> [(name: String, bytes: [UInt8])] {
        try plan.texts + plan.sideFiles.map { ($0.name, try $0.bytes.read($0.range.count, at: $0.range.lowerBound)) }
    }

    /// The file that holds a weight's bytes for good, and where in it.
    private func written(_ planned: PlannedWeight) throws -> (file: any ByteSource, offsets: [Int]) {
        guard packs else { return (try shardFile(planned.shard), planned.tensors.map(\.offset)) }
        let shard = try packedShard(planned.shard)
        return (shard.bytes, planned.tensors.map { $0.offset + (shard.shifts[$0.name] ?? 0) })
    }

    /// The packed file, opened as any reader would, its tensors compared with those that were promised.
    private func packedShard(_ number: Int) throws -> PackedShard {
        try packed.withLock { open in
            if let shard = open[number] { return shard }
            let shard = plan.shards[number]
            let path = run.destination.unfinishedFile(shard.name)
            let file: TensorFile
            do {
                guard let opened = try ContainerRegistry.open(path) else { throw CheckpointFailure.notACheckpointFile(path: path) }
                file = opened
            } catch {
                // Damaged since it was packed: the next run packs it again.
                try FileTree.remove(path)
                throw error
            }
            let promised = try SafetensorsHeader(shard.pieces[0].bytes, fileSize: shard.size).tensors
            let found = Dictionary(file.tensors.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
            var shifts: [String: Int] = [:]
            for tensor in promised {
                guard let stored = found[tensor.name], stored.type == tensor.type, stored.shape == tensor.shape else {
                    throw ConversionFailure.differs(weight: tensor.name, file: path, bytes: tensor.byteCount)
                }
                shifts[tensor.name] = stored.offset - tensor.offset
            }
            guard found.count == promised.count else { throw ConversionFailure.lostHeader(of: shard, path) }
            let result = PackedShard(bytes: file.bytes, shifts: shifts)
            open[number] = result
            return result
        }
    }

    // MARK: Finishing

    /// Reads the file back as any reader would, then gives the shard its final name.
    private func finish(_ number: Int, _ stop: StopToken) throws {
        let shard = plan.shards[number]
        if packs {
            _ = try packedShard(number)
            packed.withLock { $0[number] = nil }
        } else {
            let file = try shardFile(number)
            if let container = plan.output.container as? any PlacedContainer.Type {
                try container.seal(file) { if stop.isStopped { throw CancellationError() } }
            }
            guard try plan.output.container.open(file).tensors.count == shard.tensorCount else {
                throw ConversionFailure.lostHeader(of: shard, file.path)
            }
        }
        try journal.synchronize()
        openShards.withLock { $0[number] = nil }
        try FileTree.rename(run.destination.unfinishedFile(shard.name), to: run.destination.file(shard.name))
        try FileTree.synchronizeDirectory(run.destination.directory)
        if packs { try FileTree.remove(run.destination.stageFile(shard, packs: true)) }
        try journal.finished(shard: number)
        try consumption?.finished(shard: number)
    }

    // MARK: The source

    private func requireUnchangedSource(of shard: Int) throws {
        do {
            let files = Set(plan.shards[shard].weights.flatMap { plan.weights[$0].sourceFiles(in: run.checkpoint) })
            for file in files.sorted() { try found.requireUnchanged(file) }
        } catch {
            forgetUnfinished()
            throw error
        }
    }

    /// Removes what is written and not finished: the next run begins it anew, whatever the journal says of it.
    private func forgetUnfinished() {
        for number in unfinished {
            let shard = plan.shards[number]
            try? FileTree.remove(run.destination.stageFile(shard, packs: packs))
            try? FileTree.remove(run.destination.unfinishedFile(shard.name))
        }
    }

    /// Frees what an earlier run has finished with, or was just about to free.
    func consumeReady() throws { try consumption?.consumeReady() }

    /// How many source files were consumed, and how many bytes that freed.
    var freed: (files: Int, bytes: Int) { consumption?.freed ?? (0, 0) }
}

extension ConversionFailure {
    fileprivate static func lostHeader(of shard: PlannedShard, _ path: String) -> ConversionFailure {
        .differs(weight: "the header", file: path, bytes: shard.pieces.reduce(0) { $0 + $1.bytes.count })
    }
}

/// One worker's memory, allocated as large as its weights need and never above its share of the budget.
final class Arena {
    let limit: Int
    private var buffer: AlignedBuffer?

    init(limit: Int) { self.limit = limit }

    func memory(for converter: WeightConverter) throws(OutOfMemory) -> UnsafeMutableRawBufferPointer {
        let wanted = max(64, min(limit, max(converter.minimumBytes, converter.preferredBytes(within: limit))))
        if let buffer, buffer.bytes.count >= wanted { return buffer.slice(0..<min(buffer.bytes.count, max(64, limit))) }
        // The old one goes before the new one comes.
        buffer = nil
        let larger = try AlignedBuffer(byteCount: wanted)
        buffer = larger
        return larger.slice(0..<min(larger.bytes.count, max(64, limit)))
    }
}
