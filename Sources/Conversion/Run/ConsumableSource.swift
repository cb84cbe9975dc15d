import Checkpoints
import Formats
import Runtime
import Tensors

/// What may be freed of a source while it is converted: of each file the ranges of its large tensors, once nothing of them is needed any more.
///
/// Headers, scales and other small tensors stay, under a ``ConsumedName``: a run that was stopped plans again from them.
package struct ConsumableSource: Sendable {
    /// Smaller tensors are not worth a hole, and plans read them.
    private static let smallest = 64 << 10
    /// Bytes of a name that every file system of Linux takes (NAME_MAX).
    private static let longestName = 255

    package let directory: String
    /// By file, ascending.
    package let freed: [[Range<Int>]]
    /// Files that an earlier run has consumed.
    let consumed: [Int: ConsumedName]
    /// The files as the plan found them.
    let found: SourceVersions
    /// By file: the output files that are made of it.
    let dependents: [Set<Int>]

    /// - Throws: ``ConversionFailure/usage(_:)`` for a source of which nothing can be freed, or must not be.
    package init(_ checkpoint: Checkpoint, _ plan: ConversionPlan) throws {
        guard let source = checkpoint.source as? ConsumedDirectory else {
            throw ConversionFailure.usage("--consume-source frees files of a directory on this machine; \(checkpoint.address) is none")
        }
        directory = source.path
        guard checkpoint.address == source.address else {
            throw ConversionFailure.usage("--consume-source renames files, so that \(checkpoint.address) would be missed: give its directory")
        }
        // What a dialect has made lies in no file.
        let names = checkpoint.fileNames.indices.prefix { !checkpoint.files[$0].files.isEmpty }.map { checkpoint.fileNames[$0] }
        guard !checkpoint.isDivided, names.indices.allSatisfy({ Self.isPlain($0, checkpoint) }) else {
            throw ConversionFailure.usage("--consume-source frees large tensors of safetensors files; \(directory) holds others")
        }
        if plan.weights.contains(where: { $0.road == .fold }) {
            throw ConversionFailure.usage("--consume-source: scales are folded into other weights here, which are read more than once; leave it out")
        }
        if let link = try FileTree.firstLink(in: directory) {
            throw ConversionFailure.usage("--consume-source: \(link) is a link, and others may read what it leads to; give the directory's own path")
        }
        var consumed: [Int: ConsumedName] = [:]
        found = try SourceVersions(of: checkpoint)
        for (index, name) in names.enumerated() {
            let later = ConsumedName(name, version: found.version(of: index))
            guard ConsumedName(parsing: later.text) == later, later.text.utf8.count <= Self.longestName else {
                throw ConversionFailure.usage(
                    "--consume-source would call \(name) \(later.text), which is no name for it (too long, or changed before 1970); leave it out")
            }
            if let left = source.leftover(of: name) {
                throw ConversionFailure.usage(
                    "--consume-source: \(name) is there, and so is \(left.text), which a conversion has left of it. To begin anew remove the latter; to continue that conversion give \(name) its old time as well (touch -d @\(left.seconds))"
                )
            }
            if let earlier = source.consumed(name) { consumed[index] = earlier }
            let path = source.path(of: consumed[index]?.text ?? name)
            if let link = try FileTree.firstLink(in: path) {
                throw ConversionFailure.usage(
                    "--consume-source: \(link) is a link, as in a hub's cache, and others may read what it leads to; leave it out")
            }
            let count = try PositionedFile.openForChanging(path).allocation().names
            guard count == 1 else {
                throw ConversionFailure.usage("--consume-source: \(path) has \(count) names (hard links), and others may read it; leave it out")
            }
        }
        self.consumed = consumed

        // What nothing is made of stays: it would be nowhere else.
        var ranges = [[Range<Int>]](repeating: [], count: names.count)
        for index in Set(plan.weights.map(\.source)) {
            let weight = checkpoint.weights[index]
            guard let largest = weight.stored.max(by: { $0.byteCount < $1.byteCount }), largest.byteCount >= Self.smallest,
                names.indices.contains(largest.file)
            else { continue }
            ranges[largest.file].append(largest.offset..<largest.offset + largest.byteCount)
        }
        freed = ranges.map { Self.joined($0) }

        var dependents = [Set<Int>](repeating: [], count: names.count)
        for planned in plan.weights {
            for file in planned.sourceFiles(in: checkpoint) where names.indices.contains(file) { dependents[file].insert(planned.shard) }
        }
        self.dependents = dependents
    }

    /// Whether a file is a safetensors file as it lies there, and not one that an archive holds.
    private static func isPlain(_ index: Int, _ checkpoint: Checkpoint) -> Bool {
        checkpoint.safetensors[index] != nil && checkpoint.files[index].stored(1, at: 0)?.offset == 0
    }

    /// Ascending, and those that touch as one, so that no page between two is left.
    private static func joined(_ ranges: [Range<Int>]) -> [Range<Int>] {
        ranges.sorted { $0.lowerBound < $1.lowerBound }.reduce(into: []) { joined, range in
            if let last = joined.last, last.upperBound >= range.lowerBound {
                joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
            } else {
                joined.append(range)
            }
        }
    }

    /// The source as it is once all of it has been consumed.
    package func remaining(of source: any SourceDirectory, _ checkpoint: Checkpoint) -> any SourceDirectory {
        RemainingDirectory(source, freed: Dictionary(zip(checkpoint.fileNames, freed)) { first, _ in first })
    }

    /// Refuses a run that would have to read what has been freed.
    func requireSources(of weights: Set<Int>, _ plan: ConversionPlan, _ checkpoint: Checkpoint) throws {
        guard !consumed.isEmpty else { return }
        for position in weights.sorted() {
            let planned = plan.weights[position]
            for name in planned.sourceFiles(in: checkpoint).lazy.compactMap({ consumed[$0] }) {
                throw ConversionFailure.consumed(file: FileTree.path(directory, name.text), weight: checkpoint.weights[planned.source].name)
            }
        }
    }

    /// The most that output files take beyond what is freed meanwhile, if they are written in their order by so many workers at once.
    ///
    /// - Parameters:
    ///   - unfinished: output files that are not finished.
    ///   - staged: those of them that have their size already.
    package func peakBytes(_ plan: ConversionPlan, unfinished: Set<Int>, staged: Set<Int> = [], workers: Int) -> Int {
        func size(_ shard: Int) -> Int { staged.contains(shard) ? 0 : plan.shards[shard].size }
        let order = unfinished.sorted()
        var freedAfter: [Int: Int] = [:]
        for (file, shards) in dependents.enumerated() where consumed[file] == nil {
            guard let last = shards.intersection(unfinished).max() else { continue }
            freedAfter[last, default: 0] += freed[file].reduce(0) { $0 + $1.count }
        }
        var taken = 0, peak = 0
        for (place, shard) in order.enumerated() {
            let atOnce = order[place..<min(order.count, place + workers)].reduce(0) { $0 + size($1) }
            peak = max(peak, taken + atOnce)
            taken += size(shard) - freedAfter[shard, default: 0]
        }
        return peak
    }
}

/// Frees the files of a source, one as soon as the last output file that is made of it is durable and audited.
final class SourceConsumption: Sendable {
    private let source: ConsumableSource
    private let checkpoint: Checkpoint
    /// By file: output files that are made of it and not finished. None of a file that is consumed.
    private let waiting: Lock<[Int: Set<Int>]>
    private let done = Lock((files: 0, bytes: 0))

    /// - Parameters:
    ///   - destination: the directory that is written. Its own name must outlive a power failure as its files do.
    ///   - unfinished: output files that are not finished.
    init(_ source: ConsumableSource, of checkpoint: Checkpoint, destination: String, unfinished: Set<Int>) throws {
        self.source = source
        self.checkpoint = checkpoint
        let needed = source.dependents.enumerated().filter { !$0.element.isEmpty }
        waiting = Lock(Dictionary(uniqueKeysWithValues: needed.map { ($0.offset, $0.element.intersection(unfinished)) }))
        try FileTree.synchronizeDirectory(FileTree.directory(of: destination))
        guard try FileSystemProbe.canFreeParts(in: source.directory) else {
            throw ConversionFailure.usage(
                "--consume-source: the file system of \(source.directory) cannot free parts of files (no FALLOC_FL_PUNCH_HOLE); leave it out")
        }
    }

    /// How many files were consumed, and how much that freed.
    var freed: (files: Int, bytes: Int) { done.withLock { $0 } }

    /// An output file has its final name, and that is durable.
    func finished(shard: Int) throws {
        waiting.withLock { waiting in
            for file in waiting.keys { waiting[file]?.remove(shard) }
        }
        try consumeReady()
    }

    /// Frees the files that nothing waits for.
    func consumeReady() throws {
        // Without fsync nobody knows what is durable.
        guard !Durability.wasUnavailable else { return }
        let ready = waiting.withLock { waiting in
            let ready = waiting.filter { $0.value.isEmpty }.keys.sorted()
            for file in ready { waiting[file] = nil }
            return ready
        }
        for file in ready { try consume(file) }
    }

    private func consume(_ index: Int) throws {
        let name = source.consumed[index] ?? ConsumedName(checkpoint.fileNames[index], version: source.found.version(of: index))
        let path = FileTree.path(source.directory, name.text)
        if source.consumed[index] == nil {
            // What has taken the name since, or was changed meanwhile, is not what was converted.
            try source.found.requireUnchanged(index)
            try FileTree.rename(FileTree.path(source.directory, name.original), to: path)
            // The name must say what is missing before anything is.
            try FileTree.synchronizeDirectory(source.directory)
        }
        let file = try PositionedFile.openForChanging(path)
        let (before, names) = try file.allocation()
        guard names == 1 else { throw ConversionFailure.changed(path) }
        for range in source.freed[index] { try file.free(range) }
        try file.synchronize()
        let after = try file.allocation().bytes
        done.withLock {
            $0.files += 1
            $0.bytes += max(0, before - after)
        }
    }
}
