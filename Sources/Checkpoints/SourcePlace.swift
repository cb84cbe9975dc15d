import Remote
import Tensors

/// What a user's path or URL means: a directory, or one and the name of a file in it.
package struct SourcePlace: Sendable {
    package var directory: any SourceDirectory
    package var name: String?

    /// What opens it again, with the same contents.
    package var address: String { name.map { FileTree.path(directory.address, $0) } ?? directory.address }

    /// - Parameter path: a path of this machine, or a URL.
    /// - Throws: ``CheckpointFailure/missing(path:)`` if there is nothing.
    package init(_ path: String) throws {
        if let remote = try RemoteSource.open(path) {
            (directory, name) = remote
            return
        }
        let path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        switch try FileTree.entry(path) {
        case nil: throw CheckpointFailure.missing(path: path)
        case .directory?: directory = LocalDirectory(path)
        case .file?, .other?:
            let slash = path.lastIndex(of: "/")
            directory = LocalDirectory(slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? ".")
            name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        }
    }
}
