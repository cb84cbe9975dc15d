import Runtime
import Tensors

/// A tensor file, opened: what it holds and where the bytes are read from. Headers are read, data are not.
public struct TensorFile: Sendable {
    /// In the order of their bytes; offsets count in ``bytes``.
    public var tensors: [StoredTensor]
    public var metadata: [(key: String, value: String)]
    public var bytes: any ByteSource
    /// Where ``bytes`` are a safetensors file, or decode to one: its first data byte.
    public var safetensorsDataOffset: Int?
    /// Small files that travel inside the container: `config.json` of a checkpoint that is one file.
    public var attachments: [Attachment]

    public struct Attachment: Sendable, Equatable {
        public var name: String
        public var offset: Int
        public var byteCount: Int
    }

    public init(
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
public struct PackingOptions: Sendable {
    /// Upper bound on working memory, in bytes.
    public var memory: Int
    public var workers: Int
    /// Zstd archives only: leave bytes in their order, so that `zstd -d` restores the file.
    public var keepsByteOrder: Bool
    /// HDF5 only: how chunks are compressed.
    public var filter: HDF5Filter
    /// Small files to put inside, where the container has a place for them.
    public var attachments: [(name: String, bytes: [UInt8])]
    /// Called between chunks; throws to stop.
    public var checkpoint: @Sendable () throws -> Void

    public init(
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
public protocol Container: Sendable {
    /// The name on the command line.
    static var name: String { get }

    /// How its files' names end, the ending that it writes first.
    static var endings: [String] { get }

    /// The file that says which file holds which tensor.
    static var indexName: String { get }

    /// Whether a whole checkpoint can be one file of this kind, `config.json` included.
    static var isSingleFile: Bool { get }

    /// Whether its files are safetensors files, as they are or when they are restored, so that a file can be kept header and all.
    static var wrapsSafetensors: Bool { get }

    /// What the index calls a file: a wrapped one goes by the name that it has when it is restored.
    static func listedName(of fileName: String) -> String

    /// Whether a file that begins with `start` (64 bytes, or the whole file) is of this kind.
    static func recognises(_ start: [UInt8]) -> Bool

    static func open(_ file: PositionedFile) throws -> TensorFile

    /// The name of file `number` among `count`, both as text of five digits; nil for a file of its own.
    static func fileName(_ place: (number: String, count: String)?) -> String

    /// Writes the tensors of `source`, a safetensors file, to `path`. The same source and options give the same bytes, whatever
    /// the memory and the number of workers. Nil for safetensors, which is written in place.
    static var pack: (@Sendable (_ source: TensorFile, _ path: String, _ options: PackingOptions) throws -> Void)? { get }

    /// Why these tensors cannot be stored in one file, naming the first; nil if they can.
    static func obstacle(to tensors: [SafetensorsHeader.Declaration]) -> String?
}

extension Container {
    public static var isSingleFile: Bool { false }
    public static var wrapsSafetensors: Bool { false }
    public static func listedName(of fileName: String) -> String { fileName }
    public static func obstacle(to tensors: [SafetensorsHeader.Declaration]) -> String? { nil }

    static func has(_ name: String) -> Bool { endings.contains { name.hasSuffix($0) } }
}

/// Every container. Adding a format adds one line here.
public enum ContainerRegistry {
    public static let containers: [any Container.Type] = [
        Safetensors.self,
        ZstdArchive.self,
        TorchArchive.self,
        HDF5.self,
    ]

    public static func container(named name: String) -> (any Container.Type)? { containers.first { $0.name == name } }

    /// The container of a file by its first bytes, or else by its name; its own reader then says what is wrong with it.
    public static func container(of name: String, start: [UInt8]) -> (any Container.Type)? {
        containers.first { $0.recognises(start) } ?? containers.first { $0.has(name) }
    }

    /// The container that a destination asks for by its ending.
    public static func singleFile(_ path: String) -> (any Container.Type)? { containers.first { $0.isSingleFile && $0.has(path) } }

    /// Whether a file of this name holds tensors or says where they are, in any container.
    public static func isTensorFile(_ name: String) -> Bool { containers.contains { $0.has(name) } || isIndex(name) }

    /// Whether a conversion writes files of this name: their beginning is fixed as well, where the ending alone says little (`.bin`).
    public static func isOutputFile(_ name: String) -> Bool {
        isTensorFile(name) && (!TorchArchive.has(name) || name.hasPrefix("pytorch_model"))
    }

    public static func isIndex(_ name: String) -> Bool { containers.contains { isIndex(name, $0) } }

    static func isIndex(_ name: String, _ container: any Container.Type) -> Bool {
        // "model.safetensors.index.json": variants differ before the first dot.
        let ending = container.indexName.drop { $0 != "." }
        return name.hasSuffix(ending)
    }

    /// The tensor files or the index among `names`, those of the first container that has any.
    public static func choose(among names: [String]) -> (index: String?, files: [String])? {
        for container in containers {
            let indexes = names.filter { isIndex($0, container) }
            if let index = indexes.first(where: { $0 == container.indexName }) ?? indexes.first { return (index, []) }
            let files = names.filter { container.has($0) && !$0.hasPrefix(".") }
            if !files.isEmpty { return (nil, files) }
        }
        return nil
    }

    /// The file that an index means by `name`: itself, or its archive.
    public static func candidates(for name: String) -> [String] { [name] + ZstdArchive.endings.map { name + $0.dropFirst(".safetensors".count) } }

    /// Opens a tensor file of any container.
    public static func open(_ path: String) throws -> TensorFile? {
        let file = try PositionedFile.openForReading(path)
        let start = try file.read(min(64, file.size()), at: 0)
        if let disguise = Disguise(start) { throw SafetensorsFailure(path, disguise.fault) }
        return try container(of: path, start: start)?.open(file)
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
public struct ContainerFailure: Failure, Equatable {
    public var path: String
    public var sentence: String

    public init(_ path: String, _ sentence: String) {
        self.path = path
        self.sentence = sentence
    }

    public var kind: FailureKind { .badData }
    public var description: String { "\(path): \(sentence)" }
}

/// `00001` of 1: five digits, more if needed.
public func fiveDigits(_ number: Int) -> String { String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number) }
