import Formats
import StrictJSON
import Tensors

/// An opened checkpoint: every weight with its layout and the places of its bytes. Headers are read, data are not.
public struct Checkpoint: Sendable {
    /// The directory that holds the files.
    public var directory: String
    /// Tensor files, in the order of the index or of their names.
    public var files: [PositionedFile]
    public var fileNames: [String]
    public var fileSizes: [Int]
    /// `__metadata__` of the first file.
    public var metadata: [(key: String, value: String)]
    /// In the order of files and offsets.
    public var weights: [Weight]
    /// `config.json`; an empty object if there is none.
    public var config: JSONValue
    public var quantization: QuantizationConfig?
    /// Other files of the directory (tokenizer, generation config, ...), carried over by conversions.
    public var sideFiles: [String]
    public var unpaired: [UnpairedTensor]
    public var findings: [Finding]

    public static let configLimit = 16 << 20

    /// Opens a directory, a safetensors file, or an index file.
    public init(opening path: String) throws {
        let path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        let source = try Self.locate(path)
        directory = source.directory
        files = []
        fileNames = source.files
        fileSizes = []
        metadata = []
        weights = []
        findings = source.findings
        unpaired = []
        sideFiles = source.sideFiles

        var tensors: [StoredTensor] = []
        for (index, name) in fileNames.enumerated() {
            let file = try PositionedFile.openForReading(directory + "/" + name)
            let header = try SafetensorsHeader(reading: file, index: index)
            files.append(file)
            fileSizes.append(try file.size())
            if index == 0 { metadata = header.metadata }
            tensors += header.tensors
        }
        try Self.checkNames(of: tensors, against: source.index, path: directory, fileNames: fileNames, findings: &findings)

        config = try Self.readConfig(directory + "/config.json")
        quantization = QuantizationConfig(config: config)
        try recogniseWeights(MLXDialect.unstacked(tensors))
        checkMTP()
    }

    private struct Source {
        var directory: String
        var files: [String]
        var index: SafetensorsIndex?
        var sideFiles: [String] = []
        var findings: [Finding] = []
    }

    private static func locate(_ path: String) throws -> Source {
        switch try FileTree.entry(path) {
        case nil: throw CheckpointFailure.missing(path: path)
        case .directory?: return try locate(directory: path)
        case .file?, .other?:
            let slash = path.lastIndex(of: "/")
            let directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
            let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
            let start = try PositionedFile.openForReading(path).read(16, at: 0)
            if start.first == UInt8(ascii: "{") { return try locate(index: name, in: directory) }
            guard start.count >= 9, start[8] == UInt8(ascii: "{") || name.hasSuffix(".safetensors") else {
                throw CheckpointFailure.notACheckpointFile(path: path)
            }
            return Source(directory: directory, files: [name], sideFiles: try sideFiles(in: directory, besides: [name]))
        }
    }

    private static func locate(directory: String) throws -> Source {
        let names = try FileTree.list(directory)
        let indexes = names.filter { $0.hasSuffix(".safetensors.index.json") }
        if let index = indexes.first(where: { $0 == SafetensorsIndex.fileName }) ?? indexes.first {
            return try locate(index: index, in: directory)
        }
        let shards = names.filter { $0.hasSuffix(".safetensors") && !$0.hasPrefix(".") }
        guard !shards.isEmpty else { throw CheckpointFailure.noTensorFiles(path: directory) }
        return Source(directory: directory, files: shards, sideFiles: try sideFiles(in: directory, besides: shards))
    }

    private static func locate(index name: String, in directory: String) throws -> Source {
        let index = try SafetensorsIndex(reading: directory + "/" + name)
        let files = index.files.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        for file in files {
            guard case .file? = try FileTree.entry(directory + "/" + file) else {
                let tensor = index.fileOfTensor.filter { index.files[$0.value] == file }.keys.min() ?? ""
                throw SafetensorsFailure(directory + "/" + name, .indexMissingFile(file: file, tensor: tensor))
            }
        }
        guard !files.isEmpty else { throw CheckpointFailure.noTensorFiles(path: directory) }
        var source = Source(directory: directory, files: files, index: index)
        source.sideFiles = try sideFiles(in: directory, besides: files + [name])
        let strays = try FileTree.list(directory).filter { $0.hasSuffix(".safetensors") && !$0.hasPrefix(".") && !files.contains($0) }
        if !strays.isEmpty {
            source.findings.append(Finding(strays[0], "is not in the index and is ignored\(strays.count > 1 ? " (\(strays.count) such files)" : "")"))
        }
        return source
    }

    /// Plain files that belong to a model but hold no tensors. Hidden files and other tensor files stay behind.
    private static func sideFiles(in directory: String, besides used: [String]) throws -> [String] {
        let used = Set(used)
        return try FileTree.list(directory).filter { name in
            guard !name.hasPrefix("."), !used.contains(name), !name.hasSuffix(".safetensors"), !name.hasSuffix(".safetensors.index.json"),
                name != "config.json", name != "recast.manifest.json", case .file? = try? FileTree.entry(directory + "/" + name)
            else { return false }
            return true
        }
    }

    private static func checkNames(
        of tensors: [StoredTensor], against index: SafetensorsIndex?, path: String, fileNames: [String], findings: inout [Finding]
    ) throws {
        var seen: [String: Int] = [:]
        seen.reserveCapacity(tensors.count)
        var unlisted: [String] = []
        for tensor in tensors {
            if let other = seen.updateValue(tensor.file, forKey: tensor.name) {
                throw SafetensorsFailure(path + "/" + fileNames[tensor.file], .tensorInTwoFiles(tensor: tensor.name, other: fileNames[other]))
            }
            if let index, index.fileOfTensor[tensor.name] == nil { unlisted.append(tensor.name) }
        }
        guard let index else { return }
        for (name, place) in index.fileOfTensor where seen[name].map({ fileNames[$0] }) != index.files[place] {
            throw SafetensorsFailure(path, .indexMissingTensor(file: index.files[place], tensor: name))
        }
        if let first = unlisted.min() {
            findings.append(
                Finding(
                    first, "is stored in a shard but not in the index\(unlisted.count > 1 ? " (\(unlisted.count) such tensors)" : ""); it is kept"))
        }
    }

    private static func readConfig(_ path: String) throws -> JSONValue {
        guard case .file? = try FileTree.entry(path) else { return .object([:]) }
        do {
            let value = try JSONValue(parsing: try FileTree.read(path, limit: configLimit))
            guard value.object != nil else { throw CheckpointFailure.configNotObject(path: path) }
            return value
        } catch let error as JSONError {
            throw CheckpointFailure.config(path: path, error)
        }
    }

    /// Compares the layers that exist beyond `num_hidden_layers` with `num_nextn_predict_layers`.
    private mutating func checkMTP() {
        guard let layers = config["num_hidden_layers"]?.int else { return }
        let extra = Set(weights.lazy.compactMap { WeightName.layer($0.name) }.filter { $0 >= layers }).count
        let promised = config["num_nextn_predict_layers"]?.int ?? 0
        if extra != promised {
            findings.append(
                Finding("config.json", "promises \(promised) multi-token-prediction layers (num_nextn_predict_layers) but the tensors hold \(extra)"))
        }
    }

    public func fileName(of weight: Weight) -> String { fileNames[weight.stored[0].file] }
}
