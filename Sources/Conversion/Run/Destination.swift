import Checkpoints
import Formats
import Runtime
import StrictJSON
import Tensors

/// The output directory: what is in it, what may be done with it, and where unfinished files live.
struct Destination {
    enum State {
        /// Nothing there, or an unfinished run of the same plan; other runs are kept out.
        case open(Journal, Journal.State, RunLock)
        case finished
    }

    static let workName = ".recast"
    static let manifestName = "recast.manifest.json"

    /// As it was given: a directory, or the one file that is written.
    let path: String
    /// Where files appear.
    let directory: String
    /// Beside a single file it has the file's name in front.
    let manifestName: String
    private let workName: String
    private let isSingleFile: Bool
    /// Of a divided run: it works in a folder of its own.
    private let part: Part?
    /// What unfinished files of this run have in their names, so that no other run can take them for its own; set with the lock.
    private(set) var runName = ""

    init(_ path: String, isSingleFile: Bool, part: Part? = nil) {
        self.part = part
        let path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        self.path = path
        self.isSingleFile = isSingleFile
        guard isSingleFile else {
            (directory, manifestName, workName) = (path, Self.manifestName, Self.workName)
            return
        }
        let slash = path.lastIndex(of: "/")
        directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        manifestName = name + "." + Self.manifestName
        workName = Self.workName + "." + name
    }

    private var rootPath: String { FileTree.path(directory, workName) }
    /// The working directory, or a part's folder in it.
    var workPath: String { part.map { FileTree.path(rootPath, $0.name) } ?? rootPath }
    private var journalPath: String { workFile(Self.journalName) }
    private static let journalName = "journal"

    func workFile(_ name: String) -> String { workPath + "/" + name }

    /// An output file while it is written.
    func unfinishedFile(_ name: String) -> String { workFile(runName + "." + name) }

    /// The safetensors file of a shard while it is written: what gets the final name, or what that is packed from.
    func stageFile(_ shard: PlannedShard, packs: Bool) -> String { unfinishedFile(packs ? shard.name + ".stage" : shard.name) }

    /// The final name of an output file.
    func file(_ name: String) -> String { isSingleFile && !name.hasSuffix(Self.manifestName) ? path : FileTree.path(directory, name) }

    func hasUnfinishedWork() throws -> Bool { try FileTree.entry(workPath) != nil }

    /// Decides whether a run of `plan` may go on here, and opens its journal. Nothing is read for good, cleared or cut before other runs are
    /// locked out.
    ///
    /// - Parameter request: how the run was asked for, where it is divided.
    mutating func prepare(
        _ plan: ConversionPlan, identity: String, request: JSONValue? = nil, options: RunOptions, stop: StopToken
    ) throws -> State {
        runName = String(identity.prefix(12))
        switch try FileTree.entry(directory) {
        case nil: try FileTree.createDirectory(directory)
        case .directory?: break
        default: throw ConversionFailure.destinationNotEmpty(path: directory, reason: "this is a file, not a directory")
        }
        // What is refused whatever happens is refused before a directory of ours appears.
        switch try situation(plan, options) {
        case .finished(hasWork: false): return .finished
        case .refused(let reason): throw ConversionFailure.destinationNotEmpty(path: path, reason: reason)
        default: break
        }
        if part != nil {
            try FileTree.createDirectory(rootPath)
            if let known = try DividedRun(reading: rootPath) { try check(known, identity) }
        }
        try FileTree.createDirectory(workPath)
        guard let lock = try RunLock(workPath) else { throw ConversionFailure.destinationBusy(path: path) }
        do {
            if let part {
                // Parts that begin at once write it each, by a name of its own; then all hold themselves to what is there.
                let mine = DividedRun(identity: identity, parts: part.count, request: request ?? .null)
                if try DividedRun(reading: rootPath) == nil { try mine.write(to: rootPath, temporary: unfinishedFile(DividedRun.fileName)) }
                try check(DividedRun(reading: rootPath) ?? mine, identity)
            }
            switch try situation(plan, options) {
            case .refused(let reason): throw ConversionFailure.destinationNotEmpty(path: path, reason: reason)
            case .finished:
                try removeWork(lock)
                return .finished
            case .overwritten(let entries): try clear(entries)
            case .open: break
            }
            guard let (journal, state) = try Journal.open(journalPath, identity: identity, plan: plan, stop: stop) else {
                throw ConversionFailure.destinationNotEmpty(
                    path: path, reason: "it holds an unfinished run of another conversion, or the source has changed since")
            }
            // The journal's name must outlive a power loss, or the next run would not know whose files lie here.
            try FileTree.synchronizeDirectory(workPath)
            try FileTree.synchronizeDirectory(directory)
            return .open(journal, state, lock)
        } catch {
            lock.release()
            throw error
        }
    }

    private enum Situation {
        case open
        case overwritten([String])
        case finished(hasWork: Bool)
        case refused(String)
    }

    /// What is in the directory, and what that means for a run of `plan`.
    private func situation(_ plan: ConversionPlan, _ options: RunOptions) throws -> Situation {
        var entries = try FileTree.list(directory)
        // Beside a single file may lie what will.
        if isSingleFile {
            let name = path.split(separator: "/").last.map(String.init) ?? path
            entries = entries.filter { $0 == workName || $0 == manifestName || $0 == name }
        }
        let hasWork = entries.contains(workName)
        let others = entries.filter { $0 != workName }
        if options.overwrite, part == nil { return .overwritten(entries) }
        let sameIsFinished = others.contains(manifestName) && manifest()?.plan == plan.fingerprint && isComplete(plan)
        if hasWork, let divided = try DividedRun(reading: rootPath) {
            guard part == nil else { return .open }
            return .refused("a conversion in \(divided.parts) parts is being written here; start them with --part, and `recast finish` joins them")
        }
        if hasWork, try FileTree.list(rootPath).contains(Self.journalName) {
            return part == nil ? .open : .refused("it holds an unfinished run that is not divided")
        }
        // Without a journal a run was stopped between its last two steps, or before its first.
        if sameIsFinished, hasWork || options.resume || part != nil { return .finished(hasWork: hasWork) }
        if others.isEmpty { return .open }
        return .refused(
            sameIsFinished
                ? "this conversion is already finished here" : isSingleFile ? "there is an output already" : "the directory is not empty")
    }

    /// The plan's fingerprint in the manifest and the sizes of the files that it made, read without loading the rest.
    private func manifest() -> (plan: String, sizes: [String: Int])? {
        guard let bytes = try? PositionedFile.openForReading(file(manifestName)).read(4 << 20, at: 0) else { return nil }
        var scanner = JSONScanner(bytes)
        guard (try? scanner.beginObject()) != nil else { return nil }
        var plan: String?
        while let key = try? scanner.nextKey() {
            if key == "plan" {
                plan = try? scanner.string()
            } else if let value = try? JSONValue(scanning: &scanner) {
                guard key == "files", let plan, let files = value.array else { continue }
                let sizes = files.compactMap { file in file["name"]?.string.flatMap { name in file["size"]?.int.map { (name, $0) } } }
                return (plan, Dictionary(sizes) { first, _ in first })
            } else {
                return nil
            }
        }
        return nil
    }

    /// Whether every output file is there with the size that the manifest promises.
    private func isComplete(_ plan: ConversionPlan) -> Bool {
        guard let sizes = manifest()?.sizes else { return false }
        return plan.shards.allSatisfy { shard in
            guard case .file(let size)? = try? FileTree.entry(file(shard.name)) else { return false }
            return size == sizes[shard.name]
        }
    }

    /// Removes an earlier conversion: tensor files, indexes, the manifest and unfinished work, the manifest first, which says that they are
    /// whole. Other files stay.
    private func clear(_ entries: [String]) throws {
        // The working directory of a single file ends as the file does.
        let outputs = entries.filter { $0 != workName && (ContainerRegistry.isOutputFile($0) || $0 == manifestName || $0 == "config.json") }
        for name in outputs.sorted(by: { ($0 == manifestName ? 0 : 1, $0) < ($1 == manifestName ? 0 : 1, $1) }) {
            try FileTree.remove(FileTree.path(directory, name))
        }
        try removeFiles()
    }

    /// Removes what is in the working directory, the journal last, the lock not at all.
    private func removeFiles() throws {
        for name in try FileTree.list(workPath) where name != Self.journalName && name != DividedRun.fileName && !RunLock.names.contains(name) {
            if case .directory? = try FileTree.entry(workFile(name)) { try removePart(workFile(name)) } else { try FileTree.remove(workFile(name)) }
        }
        try FileTree.remove(journalPath)
        try FileTree.remove(workFile(DividedRun.fileName))
    }

    /// Leaves no run that could be continued.
    func forget() throws { try FileTree.remove(journalPath) }

    /// Removes a part's folder, unless the part is at work.
    private func removePart(_ path: String) throws {
        guard let lock = try RunLock(path) else { throw ConversionFailure.destinationBusy(path: path) }
        defer { lock.release() }
        for name in try FileTree.list(path) where !RunLock.names.contains(name) { try FileTree.remove(FileTree.path(path, name)) }
        try lock.remove()
        try FileTree.removeDirectory(path)
    }

    // MARK: Divided runs

    private func check(_ divided: DividedRun, _ identity: String) throws {
        guard divided.identity == identity else {
            throw ConversionFailure.destinationNotEmpty(
                path: path, reason: "it holds parts of another conversion, or the source has changed since")
        }
        if let part, divided.parts != part.count {
            throw ConversionFailure.usage("\(path) is being written in \(divided.parts) parts, not in \(part.count)")
        }
    }

    /// Whether a manifest says that a conversion was finished here, and every file that it names is there with its size.
    /// - Throws: ``ConversionFailure/lost(_:)`` if one is not.
    func isFinished() throws -> Bool {
        guard let sizes = manifest()?.sizes else { return false }
        for (name, size) in sizes.sorted(by: { $0.key < $1.key }) {
            guard case .file(size)? = try FileTree.entry(file(name)) else { throw ConversionFailure.lost(file(name)) }
        }
        return true
    }

    /// How the run that is divided here was asked for; nil if there is none.
    func dividedRequest() throws -> JSONValue? { try DividedRun(reading: rootPath)?.request }

    /// Locks the working directory and gathers what all parts have written; nil if the parts were joined before.
    mutating func gather(
        _ plan: ConversionPlan, identity: String, stop: StopToken
    ) throws -> (records: [Int: WeightRecord], lock: RunLock)? {
        runName = String(identity.prefix(12))
        guard let divided = try DividedRun(reading: rootPath) else { throw ConversionFailure.lost(workFile(DividedRun.fileName)) }
        try check(divided, identity)
        guard let lock = try RunLock(rootPath) else { throw ConversionFailure.destinationBusy(path: path) }
        do {
            if manifest()?.plan == plan.fingerprint, isComplete(plan) {
                try removeWork(lock)
                return nil
            }
            var records: [Int: WeightRecord] = [:]
            var missing: [Int] = []
            for (number, shards) in Part.shares(of: plan, count: divided.parts).sorted(by: { $0.key < $1.key }) {
                let folder = try Destination(path, isSingleFile: isSingleFile, part: Part(number, of: divided.parts))
                guard try FileTree.entry(folder.journalPath) != nil, let own = try RunLock(folder.workPath) else {
                    missing.append(number)
                    continue
                }
                defer { own.release() }
                let state = try Journal.open(folder.journalPath, identity: identity, plan: plan, stop: stop)?.state
                for shard in shards {
                    for weight in plan.shards[shard].weights { records[weight] = state?.audited[weight] }
                }
                let isDone = try shards.allSatisfy { shard in
                    guard plan.shards[shard].weights.allSatisfy({ records[$0] != nil }),
                        case .file(let size)? = try FileTree.entry(file(plan.shards[shard].name))
                    else { return false }
                    return plan.output.container is any PackedContainer.Type || size == plan.shards[shard].size
                }
                if !isDone { missing.append(number) }
            }
            guard missing.isEmpty else { throw ConversionFailure.unfinishedParts(missing, of: divided.parts, path: path) }
            return (records, lock)
        } catch {
            lock.release()
            throw error
        }
    }

    /// Removes the working directory.
    func removeWork(_ lock: RunLock) throws {
        try removeFiles()
        try lock.remove()
        try FileTree.removeDirectory(workPath)
    }

    /// Copies a file of the source under its own name, whole or not at all, a piece at a time.
    func carryOver(_ side: Checkpoint.SideFile, stop: StopToken) throws {
        let temporary = unfinishedFile(side.name)
        do {
            let target = try PositionedFile.openForWriting(temporary, truncate: true)
            for offset in stride(from: 0, to: side.range.count, by: 1 << 20) {
                if stop.isStopped { throw CancellationError() }
                let count = min(1 << 20, side.range.count - offset)
                let piece = try side.bytes.read(count, at: side.range.lowerBound + offset)
                guard piece.count == count else { throw ShortRead(path: side.bytes.path, tensor: side.name, offset: offset + piece.count) }
                try target.write(piece, at: offset)
            }
            try target.synchronize()
        }
        try FileTree.rename(temporary, to: file(side.name))
    }

    func writeText(_ name: String, _ bytes: [UInt8]) throws { try FileTree.write(bytes, to: file(name), temporary: unfinishedFile(name)) }
}
