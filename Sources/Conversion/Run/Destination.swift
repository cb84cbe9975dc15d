import Checkpoints
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

    let path: String
    var workPath: String { path + "/" + Self.workName }
    private var journalPath: String { workPath + "/journal" }

    func workFile(_ name: String) -> String { workPath + "/" + name }

    func file(_ name: String) -> String { path + "/" + name }

    func hasUnfinishedWork() throws -> Bool { try FileTree.entry(workPath) != nil }

    /// Decides whether a run of `plan` may go on here, and opens its journal.
    func prepare(_ plan: ConversionPlan, identity: String, options: RunOptions) throws -> State {
        var entries: [String] = []
        switch try FileTree.entry(path) {
        case nil: try FileTree.createDirectory(path)
        case .directory?: entries = try FileTree.list(path)
        default: throw ConversionFailure.destinationNotEmpty(path: path, reason: "this is a file, not a directory")
        }
        let hasWork = entries.contains(Self.workName)
        let others = entries.filter { $0 != Self.workName }
        let sameIsFinished = others.contains(Self.manifestName) && manifestPlan() == plan.fingerprint && isComplete(plan)
        if options.overwrite {
            try clear(entries)
        } else if !hasWork, sameIsFinished, options.resume {
            return .finished
        } else if !hasWork, !others.isEmpty {
            let reason = sameIsFinished ? "this conversion is already finished here" : "the directory is not empty"
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
        guard let bytes = try? PositionedFile.openForReading(file(Self.manifestName)).read(4096, at: 0) else { return nil }
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
            if case .file(shard.size)? = try? FileTree.entry(file(shard.name)) { true } else { false }
        }
    }

    /// Removes an earlier conversion: tensor files, indexes, the manifest and unfinished work. Other files stay.
    private func clear(_ entries: [String]) throws {
        if entries.contains(Self.workName) { try removeWork() }
        for name in entries
        where name.hasSuffix(".safetensors") || name.hasSuffix(".safetensors.index.json") || name == Self.manifestName || name == "config.json" {
            try FileTree.remove(file(name))
        }
    }

    /// Removes the working directory, the journal last.
    func removeWork() throws {
        for name in try FileTree.list(workPath) where name != "journal" { try FileTree.remove(workFile(name)) }
        try FileTree.remove(journalPath)
        try FileTree.removeDirectory(workPath)
    }

    /// Copies a small file of the source under its own name, whole or not at all.
    func carryOver(_ name: String, from directory: String) throws {
        let source = try PositionedFile.openForReading(directory + "/" + name)
        let temporary = workFile(name)
        do {
            let target = try PositionedFile.openForWriting(temporary, truncate: true)
            var offset = 0
            while true {
                let piece = try source.read(1 << 20, at: offset)
                if piece.isEmpty { break }
                try target.write(piece, at: offset)
                offset += piece.count
            }
            try target.synchronize()
        }
        try FileTree.rename(temporary, to: file(name))
    }

    func writeText(_ name: String, _ bytes: [UInt8]) throws { try FileTree.write(bytes, to: file(name), temporary: workFile(name)) }
}
