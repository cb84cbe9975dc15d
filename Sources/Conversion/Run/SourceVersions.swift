import Checkpoints
import Tensors

/// The files of a source as a run found them.
struct SourceVersions: Sendable {
    private let files: [any ByteSource]
    /// By file of the checkpoint; of each, those that it is read through.
    private let versions: [[String]]

    init(of checkpoint: Checkpoint) throws {
        files = checkpoint.files
        versions = try files.map { try $0.files.map { try $0.version() } }
    }

    var all: [String] { versions.flatMap { $0 } }

    /// Of a file that is read as it lies there.
    func version(of index: Int) -> String { versions[index].first ?? "" }

    /// Refuses a file that was written to, replaced, or freed by another conversion since: it gives bytes that no audit can know. Whoever frees a
    /// file renames it before, so that one that is still there by now was whole when it was read.
    func requireUnchanged(_ index: Int) throws {
        for (file, version) in zip(files[index].files, versions[index]) {
            let isThere = try file.stored(1, at: 0).map { try FileTree.identity($0.file.path) == $0.file.identity() } ?? true
            guard isThere, try file.version() == version else { throw ConversionFailure.changed(file.path) }
        }
    }
}
