import Runtime

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// A file that a command is going to write, looked at before its work begins: hours later is too late to learn that there is no such folder.
package enum OutputPath {
    /// - Throws: ``OutputPathFailure`` if the file cannot be created where it is to be.
    package static func check(_ path: String) throws {
        let directory = FileTree.directory(of: path)
        guard case .directory? = try FileTree.entry(directory) else {
            throw OutputPathFailure(path: path, reason: "there is no directory \(directory); make it first")
        }
        if case .directory? = try FileTree.entry(path) { throw OutputPathFailure(path: path, reason: "this is a directory, not a file") }
        guard access(directory, W_OK) == 0 else {
            throw OutputPathFailure(path: path, reason: "\(directory) cannot be written to; check the permissions")
        }
    }
}

/// A file that cannot be created.
package struct OutputPathFailure: Failure, Equatable {
    package var path: String
    package var reason: String

    package var kind: FailureKind { .cannotCreate }
    package var description: String { "\(path): \(reason)" }
}
