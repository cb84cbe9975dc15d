import Runtime
import Tensors

/// A tensor file, opened: what it holds and where the bytes are read from. Headers are read, data are not.
package struct TensorFile: Sendable {
    /// In the order of their bytes; offsets count in ``bytes``.
    package var tensors: [StoredTensor]
    package var metadata: [(key: String, value: String)]
    package var bytes: any ByteSource
    /// Where ``bytes`` are a safetensors file, or decode to one: its first data byte.
    package var safetensorsDataOffset: Int?
    /// Small files that travel inside the container: `config.json` of a checkpoint that is one file.
    package var attachments: [Attachment]
    /// Typed metadata that describe the model, where the container has them.
    package var entries: [GGUFEntry] = []

    package struct Attachment: Sendable, Equatable {
        package var name: String
        package var offset: Int
        package var byteCount: Int
    }

    package init(
        tensors: [StoredTensor], metadata: [(key: String, value: String)] = [], bytes: any ByteSource, safetensorsDataOffset: Int? = nil,
        attachments: [Attachment] = []
    ) {
        self.tensors = tensors
        self.metadata = metadata
        self.bytes = bytes
        self.safetensorsDataOffset = safetensorsDataOffset
        self.attachments = attachments
    }
}

/// How a container is made out of a finished safetensors file.
package struct PackingOptions: Sendable {
    /// Upper bound on working memory, in bytes.
    package var memory: Int
    package var workers: Int
    /// Zstd archives only: leave bytes in their order, so that `zstd -d` restores the file.
    package var keepsByteOrder: Bool
    /// HDF5 only: how chunks are compressed.
    package var filter: HDF5Filter
    /// Small files to put inside, where the container has a place for them.
    package var attachments: [(name: String, bytes: [UInt8])]
    /// Called between chunks; throws to stop.
    package var checkpoint: @Sendable () throws -> Void

    package init(
        memory: Int = 256 << 20, workers: Int = 1, keepsByteOrder: Bool = false, filter: HDF5Filter = .zstd,
        attachments: [(name: String, bytes: [UInt8])] = [],
        checkpoint: @escaping @Sendable () throws -> Void = {}
    ) {
        self.memory = memory
        self.workers = workers
        self.keepsByteOrder = keepsByteOrder
        self.filter = filter
        self.attachments = attachments
        self.checkpoint = checkpoint
    }
}

/// One folder under `Formats/Containers`: a family of files that store named tensors as bytes.
package protocol Container: Sendable {
    /// The name on the command line.
    static var name: String { get }

    /// How its files' names end, the ending that it writes first.
    static var endings: [String] { get }

    /// The file that says which file holds which tensor.
    static var indexName: String { get }

    /// Whether a whole checkpoint can be one file of this kind, `config.json` included.
    static var isSingleFile: Bool { get }

    /// Whether an index says which of several files holds which tensor.
    static var listsFiles: Bool { get }

    /// Whether its files are safetensors files, as they are or when they are restored, so that a file can be kept header and all.
    static var wrapsSafetensors: Bool { get }

    /// What the index calls a file: a wrapped one goes by the name that it has when it is restored.
    static func listedName(of fileName: String) -> String

    /// Whether a file that begins with `start` (64 bytes, or the whole file) is of this kind.
    static func recognises(_ start: [UInt8]) -> Bool

    static func open(_ file: any SourceFile) throws -> TensorFile

    /// The name of file `number` among `count`, both as text of five digits; nil for a file of its own.
    static func fileName(_ place: (number: String, count: String)?) -> String

    /// Why these tensors cannot be stored in one file, naming the first; nil if they can.
    static func obstacle(to tensors: [TensorDeclaration]) -> String?
}

/// A container whose files are written where they will lie: the place of every tensor is known before its bytes are.
package protocol PlacedContainer: Container {
    /// Where the tensors of one file lie, and what lies around them. The same declarations give the same bytes.
    /// - Returns: nil if a size leaves Int.
    static func arrange(_ tensors: [TensorDeclaration], metadata: FileMetadata) -> FileArrangement?

    /// Writes what is known only when all tensors are there, as checksums are, and makes it durable. Done twice it is done.
    /// - Parameter checkpoint: called between pieces; throws to stop.
    static func seal(_ file: PositionedFile, checkpoint: () throws -> Void) throws
}

/// A container whose files have no places before they are made, as compressed ones: made out of a finished safetensors file.
package protocol PackedContainer: Container {
    /// Writes the tensors of `source`, a safetensors file, to `path`. The same source and options give the same bytes, whatever
    /// the memory and the number of workers.
    static func pack(_ source: TensorFile, to path: String, _ options: PackingOptions) throws
}

/// What a file says of itself beside its tensors.
package struct FileMetadata: Sendable {
    /// Of containers whose metadata are texts.
    package var texts: [(key: String, value: String)]
    /// Of GGUF, whose metadata are typed and describe the model.
    package var entries: [GGUFEntry]
    /// What a user should know of them, a sentence each.
    package var notes: [String]
    /// What a user must know before relying on the file.
    package var warnings: [String]

    package init(texts: [(key: String, value: String)] = [], entries: [GGUFEntry] = [], notes: [String] = [], warnings: [String] = []) {
        self.texts = texts
        self.entries = entries
        self.notes = notes
        self.warnings = warnings
    }
}

/// Everything of a file but the bytes of its tensors.
package struct FileArrangement: Sendable, Equatable {
    /// Bytes between and around the tensors.
    package struct Piece: Sendable, Equatable {
        package var offset: Int
        package var bytes: [UInt8]

        package init(offset: Int, bytes: [UInt8]) {
            self.offset = offset
            self.bytes = bytes
        }
    }

    package var pieces: [Piece]
    /// The first byte of each tensor, in the order in which they were declared.
    package var offsets: [Int]
    package var size: Int

    package init(pieces: [Piece], offsets: [Int], size: Int) {
        self.pieces = pieces
        self.offsets = offsets
        self.size = size
    }
}

extension PlacedContainer {
    package static func seal(_ file: PositionedFile, checkpoint: () throws -> Void) throws {}
}

extension Container {
    package static var isSingleFile: Bool { false }
    package static var listsFiles: Bool { true }
    package static var wrapsSafetensors: Bool { false }
    package static func listedName(of fileName: String) -> String { fileName }
    package static func obstacle(to tensors: [TensorDeclaration]) -> String? { nil }

    static func has(_ name: String) -> Bool { endings.contains { name.hasSuffix($0) } }
}

/// Every container. Adding a format adds one line here.
package enum ContainerRegistry {
    package static let containers: [any Container.Type] = [
        Safetensors.self,
        ZstdArchive.self,
        TorchArchive.self,
        HDF5.self,
        GGUF.self,
    ]

    package static func container(named name: String) -> (any Container.Type)? { containers.first { $0.name == name } }

    /// The container of a file by its first bytes, or else by its name; its own reader then says what is wrong with it.
    package static func container(of name: String, start: [UInt8]) -> (any Container.Type)? {
        containers.first { $0.recognises(start) } ?? containers.first { $0.has(name) }
    }

    /// The container that a destination asks for by its ending.
    package static func singleFile(_ path: String) -> (any Container.Type)? { containers.first { $0.isSingleFile && $0.has(path) } }

    /// Whether a file of this name holds tensors or says where they are, in any container.
    package static func isTensorFile(_ name: String) -> Bool { containers.contains { $0.has(name) } || isIndex(name) }

    /// Whether a conversion writes files of this name: their beginning is fixed as well, where the ending alone says little (`.bin`).
    package static func isOutputFile(_ name: String) -> Bool {
        isTensorFile(name) && (!TorchArchive.has(name) || name.hasPrefix("pytorch_model"))
    }

    package static func isIndex(_ name: String) -> Bool { containers.contains { isIndex(name, $0) } }

    static func isIndex(_ name: String, _ container: any Container.Type) -> Bool {
        // "model.safetensors.index.json": variants differ before the first dot.
        let ending = container.indexName.drop { $0 != "." }
        return name.hasSuffix(ending)
    }

    /// The tensor files or the index among `names`, those of the first container that has any.
    package static func choose(among names: [String]) -> (index: String?, files: [String])? {
        for container in containers {
            let indexes = names.filter { isIndex($0, container) }
            if let index = indexes.first(where: { $0 == container.indexName }) ?? indexes.first { return (index, []) }
            let files = names.filter { container.has($0) && !$0.hasPrefix(".") }
            if !files.isEmpty { return (nil, files) }
        }
        return nil
    }

    /// The file that an index means by `name`: itself, or its archive.
    package static func candidates(for name: String) -> [String] { [name] + ZstdArchive.endings.map { name + $0.dropFirst(".safetensors".count) } }

    /// Opens a tensor file of any container.
    package static func open(_ path: String) throws -> TensorFile? { try open(PositionedFile.openForReading(path)) }

    /// Opens a tensor file of any container, wherever it lies.
    package static func open(_ file: any SourceFile) throws -> TensorFile? {
        let start = try file.read(min(64, file.size()), at: 0)
        if let disguise = Disguise(start) { throw SafetensorsFailure(file.path, disguise.fault) }
        return try container(of: file.path, start: start)?.open(file)
    }
}

/// What is found under a tensor file's name instead of it.
enum Disguise {
    case gitLFSPointer
    case webPage

    init?(_ start: [UInt8]) {
        if start.starts(with: "version https://git-lfs".utf8) {
            self = .gitLFSPointer
        } else if start.first(where: { $0 > 0x20 }) == UInt8(ascii: "<"), Self.isMarkup(String(decoding: start, as: UTF8.self)) {
            self = .webPage
        } else {
            return nil
        }
    }

    var fault: SafetensorsFailure.Fault {
        switch self {
        case .gitLFSPointer: .gitLFSPointer
        case .webPage: .webPage
        }
    }

    private static func isMarkup(_ text: String) -> Bool {
        let lowered = text.lowercased()
        return ["<!doctype", "<html", "<?xml", "<head", "<body"].contains { lowered.contains($0) }
    }
}

/// A container's file that cannot be trusted, in one sentence.
package struct ContainerFailure: Failure, Equatable {
    package var path: String
    package var sentence: String

    package init(_ path: String, _ sentence: String) {
        self.path = path
        self.sentence = sentence
    }

    package var kind: FailureKind { .badData }
    package var description: String { "\(path): \(sentence)" }
}

/// `00001` of 1: five digits, more if needed.
package func fiveDigits(_ number: Int) -> String { String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number) }
