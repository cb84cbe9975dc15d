/// A file that a checkpoint is read from: of this machine, or one elsewhere.
package protocol SourceFile: ByteSource {
    /// Another text once the contents are others. Only compared.
    func version() throws -> String
}

/// Where the files of a checkpoint lie: a directory of this machine, or a place elsewhere that is read like one.
package protocol SourceDirectory: Sendable {
    /// The directory to name in messages.
    var path: String { get }

    /// What opens it again, on any machine that reaches it, with the same contents even where they have been replaced since.
    var address: String { get }

    /// What the model is called.
    var modelName: String { get }

    /// The names in it, sorted by their bytes.
    func names() throws -> [String]

    /// What has this name, links followed; nil if nothing does.
    func entry(_ name: String) throws -> FileTree.Entry?

    func open(_ name: String) throws -> any SourceFile

    /// Whether a name is a link to what is no part of the checkpoint.
    func leaves(_ name: String) throws -> Bool

    /// Whether a read costs a request: what is only looked at to warn is not looked at a thousand times.
    var isRemote: Bool { get }

    /// What a user should know of the way the files come here.
    var notes: [String] { get }

    /// Says, once all that was wanted has been read, how far its bytes are known to be those that were published.
    /// - Throws: if they are known not to be.
    func conclude() throws -> [String]
}

extension SourceDirectory {
    package var modelName: String { path.split(separator: "/").last.map(String.init) ?? "model" }

    package var address: String { path }

    package func path(of name: String) -> String { FileTree.path(path, name) }

    package var notes: [String] { [] }

    package func leaves(_ name: String) throws -> Bool { false }

    package func conclude() throws -> [String] { [] }

    /// A whole small file.
    package func read(_ name: String, limit: Int) throws -> [UInt8] {
        let file = try open(name)
        let size = try file.size()
        guard size <= limit else { throw FileFailure(.read, file.path, reason: .fileTooLarge) }
        return try file.read(size, at: 0)
    }
}

/// A directory of this machine.
package struct LocalDirectory: SourceDirectory {
    package var path: String
    package var address: String
    package var modelName: String
    package var notes: [String]

    /// - Parameters:
    ///   - address: where the files came from, if they are a copy of what others reach elsewhere.
    ///   - modelName: what the model is called there.
    package init(_ path: String, address: String? = nil, modelName: String? = nil, notes: [String] = []) {
        self.path = path
        self.address = address ?? path
        self.modelName = modelName ?? path.split(separator: "/").last.map(String.init) ?? "model"
        self.notes = notes
    }

    package var isRemote: Bool { false }

    package func names() throws -> [String] { try FileTree.list(path) }

    package func entry(_ name: String) throws -> FileTree.Entry? { try FileTree.entry(path(of: name)) }

    package func open(_ name: String) throws -> any SourceFile {
        let file = try PositionedFile.openForReading(path(of: name))
        // The cache of a hub names its files by their hashes.
        guard address != path, let hash = FileTree.hashName(path(of: name)) else { return file }
        return KnownFile(file, version: hash)
    }

    package func leaves(_ name: String) throws -> Bool { try FileTree.leavesDirectory(path(of: name)) }
}

/// A file of this machine that is known to be the copy of one elsewhere, and goes by that one's identity.
package struct KnownFile: SourceFile {
    private let file: PositionedFile
    private let identity: String

    package init(_ file: PositionedFile, version: String) {
        self.file = file
        identity = version
    }

    package var path: String { file.path }
    package var files: [any SourceFile] { [self] }
    package func version() -> String { identity }
    package func size() throws -> Int { try file.size() }
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int { try file.read(into: buffer, at: offset) }
    package func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { (file, offset, count) }
}
