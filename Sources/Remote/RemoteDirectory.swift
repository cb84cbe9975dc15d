import Tensors

/// A place elsewhere whose files are known by name, all of them read over the network.
protocol RemoteDirectory: SourceDirectory {
    var files: [String: RemoteFile] { get }
}

extension RemoteDirectory {
    package var isRemote: Bool { true }
    package func names() -> [String] { FileTree.inOrder(files.keys) }
    package func entry(_ name: String) -> FileTree.Entry? { files[name].map { .file(size: $0.byteCount) } }

    package func open(_ name: String) throws -> any SourceFile {
        guard let file = files[name] else { throw RemoteFailure.missing(path(of: name), reason: "there is no such file") }
        return file
    }
}
