import Checkpoints
import Formats
import StrictJSON
import Tensors

/// The output directory: what is in it, what may be done with it, and where unfinished files live.
struct Destination {
    enum State {
        /// Nothing there, or an unfinished run of the same plan.
        case open(Journal, Journal.State)
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

    init(_ path: String, isSingleFile: Bool) {
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

    var workPath: String { directory + "/" + workName }
    private var journalPath: String { workPath + "/journal" }

    func workFile(_ name: String) -> String { workPath + "/" + name }

    /// The safetensors file of a shard while it is written: what gets the final name, or what that is packed from.
    func stageFile(_ shard: PlannedShard, packs: Bool) -> String { workFile(packs ? shard.name + ".stage" : shard.name) }

    /// The final name of an output file.
    func file(_ name: String) -> String { isSingleFile && !name.hasSuffix(Self.manifestName) ? path : directory + "/" + name }

    func hasUnfinishedWork() throws -> Bool { try FileTree.entry(workPath) != nil }

    /// Decides whether a run of `plan` may go on here, and opens its journal.
    func prepare(_ plan: ConversionPlan, identity: String, options: RunOptions) throws -> State {
        var entries: [String] = []
        switch try FileTree.entry(directory) {
        case nil: try FileTree.createDirectory(directory)
        case .directory?: entries = try FileTree.list(directory)
        default: throw ConversionFailure.destinationNotEmpty(path: directory, reason: "this is a file, not a directory")
        }
        // Beside a single file may lie what will.
        if isSingleFile {
            entries = entries.filter { $0 == workName || $0 == manifestName || directory + "/" + $0 == path || "./" + $0 == "./" + path }
        }
        let hasWork = entries.contains(workName)
        let others = entries.filter { $0 != workName }
        let sameIsFinished = others.contains(manifestName) && manifestPlan() == plan.fingerprint && isComplete(plan)
        if options.overwrite {
            try clear(entries)
        } else if !hasWork, sameIsFinished, options.resume {
            return .finished
        } else if !hasWork, !others.isEmpty {
            let reason =
                sameIsFinished
                ? "this conversion is already finished here" : isSingleFile ? "there is an output already" : "the directory is not empty"
            throw ConversionFailure.destinationNotEmpty(path: path, reason: reason)
        } else if hasWork, try !FileTree.list(workPath).contains("journal") {
            // Stopped between its last two steps, or before its first.
            if sameIsFinished {
                try FileTree.removeDirectory(workPath)
                return .finished
            }
            if !others.isEmpty { throw ConversionFailure.destinationNotEmpty(path: path, reason: "the directory is not empty") }
        }
        try FileTree.createDirectory(workPath)
        guard let (journal, state) = try Journal.open(journalPath, identity: identity) else {
            throw ConversionFailure.destinationNotEmpty(
                path: path, reason: "it holds an unfinished run of another conversion, or the source has changed since")
        }
        guard journal.tryLock() else { throw ConversionFailure.destinationBusy(path: path) }
        return .open(journal, state)
    }

    /// The plan's fingerprint in the manifest, read without loading the rest.
    private func manifestPlan() -> String? {
        guard let bytes = try? PositionedFile.openForReading(file(manifestName)).read(4096, at: 0) else { return nil }
        var scanner = JSONScanner(bytes)
        guard (try? scanner.beginObject()) != nil else { return nil }
        while let key = try? scanner.nextKey() {
            if key == "plan" { return try? scanner.string() }
            guard (try? JSONValue(scanning: &scanner)) != nil else { return nil }
        }
        return nil
    }

    private func isComplete(_ plan: ConversionPlan) -> Bool {
        plan.shards.allSatisfy { shard in
            guard case .file(let size)? = try? FileTree.entry(file(shard.name)) else { return false }
            return size == shard.size || plan.output.container.pack != nil
        }
    }

    /// Removes an earlier conversion: tensor files, indexes, the manifest and unfinished work. Other files stay.
    private func clear(_ entries: [String]) throws {
        if entries.contains(workName) { try removeWork() }
        for name in entries
        where ContainerRegistry.isOutputFile(name) || name == manifestName || name == "config.json" {
            try FileTree.remove(directory + "/" + name)
        }
    }

    /// Removes the working directory, the journal last.
    func removeWork() throws {
        for name in try FileTree.list(workPath) where name != "journal" { try FileTree.remove(workFile(name)) }
        try FileTree.remove(journalPath)
        try FileTree.removeDirectory(workPath)
    }

    /// Copies a small file of the source under its own name, whole or not at all.
    func carryOver(_ file: Checkpoint.SideFile) throws {
        let temporary = workFile(file.name)
        do {
            let target = try PositionedFile.openForWriting(temporary, truncate: true)
            for offset in stride(from: 0, to: file.range.count, by: 1 << 20) {
                let piece = try file.bytes.read(min(1 << 20, file.range.count - offset), at: file.range.lowerBound + offset)
                try target.write(piece, at: offset)
            }
            try target.synchronize()
        }
        try FileTree.rename(temporary, to: self.file(file.name))
    }

    func writeText(_ name: String, _ bytes: [UInt8]) throws { try FileTree.write(bytes, to: file(name), temporary: workFile(name)) }
}
