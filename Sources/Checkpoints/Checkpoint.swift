import Architectures
import Formats
import Runtime
import StrictJSON
import Tensors

/// An opened checkpoint: every weight with its layout and the places of its bytes. Headers are read, data are not.
package struct Checkpoint: Sendable {
    /// What holds the files.
    package let source: any SourceDirectory
    /// Tensor files, in the order of the index or of their names; tensors that are put together from several files have one of
    /// their own behind these.
    package var files: [any ByteSource]
    package var fileNames: [String]
    /// For each file, its first data byte where the bytes are those of a safetensors file, and how many tensors it holds.
    package var safetensors: [(dataOffset: Int, tensors: Int)?]
    /// For each file, whether its metadata is just `format: pt`, as PyTorch's writers leave it.
    private var pyTorchFiles: [Bool] = []
    /// `__metadata__` of the first file.
    package var metadata: [(key: String, value: String)]
    /// Typed metadata of a file that describes its model by itself; empty for others.
    package private(set) var entries: [GGUFEntry] = []
    /// In the order of files and offsets.
    package var weights: [Weight]
    /// `config.json`; an empty object if there is none.
    package var config: JSONValue
    /// What its modules are for.
    package private(set) var roles = ModelRoles(nil)
    /// What describes the quantization, wherever that is found; nil if nothing does.
    package var quantization: QuantizationConfig?
    /// The place of the first description.
    package var describedAt: String?
    /// Whether stacks of experts have been taken apart.
    package private(set) var isUnstacked = true
    /// Whether there was no stack to take apart.
    package private(set) var isAsStored = true
    /// Other files of the directory (tokenizer, generation config, ...), carried over by conversions.
    package var sideFiles: [SideFile]
    /// Whether tensors are put together from the parts that ranks hold.
    package var isDivided = false
    package var unpaired: [UnpairedTensor]
    package var findings: [Finding]

    package static let configLimit = 16 << 20

    /// A small file of the source: beside the tensor files, or inside one.
    package struct SideFile: Sendable {
        package var name: String
        package var bytes: any ByteSource
        package var range: Range<Int>

        package init(name: String, bytes: any ByteSource, range: Range<Int>) {
            self.name = name
            self.bytes = bytes
            self.range = range
        }
    }

    /// What opens it again.
    package let address: String
    /// The directory that holds the files, for messages.
    package var directory: String { source.path }

    /// Opens a directory, a tensor file of any container, or an index file, of this machine or elsewhere.
    /// - Parameters:
    ///   - isUnstacked: whether stacks of experts are taken apart, so that every expert is a weight. A copy leaves them as they are stored.
    ///   - seen: the directory of this machine as it is to be looked at.
    package init(opening path: String, isUnstacked: Bool = true, seen: (LocalDirectory) throws -> any SourceDirectory = { $0 }) throws {
        var place = try SourcePlace(path)
        if let local = place.directory as? LocalDirectory { place.directory = try seen(local) }
        var found = try CheckpointFiles(at: place)
        source = found.source
        address = place.address
        files = []
        fileNames = []
        safetensors = []
        metadata = []
        weights = []
        findings = []
        unpaired = []
        sideFiles = []
        config = .object([:])

        var held: [[StoredTensor]] = []
        var attachments: [SideFile] = []
        var described: [(name: String, entries: [GGUFEntry], tensors: Int)] = []
        try found.takePromisedModule()
        fileNames = found.files
        let opened = Self.open(fileNames, in: source)
        findings = found.findings
        for (index, name) in fileNames.enumerated() {
            guard var file = try opened[index].get() else { throw CheckpointFailure.notACheckpointFile(path: source.path(of: name)) }
            for place in file.tensors.indices { file.tensors[place].file = index }
            files.append(file.bytes)
            safetensors.append(file.safetensorsDataOffset.map { ($0, file.tensors.count) })
            if index == 0 { metadata = file.metadata }
            pyTorchFiles.append(file.metadata.count == 1 && file.metadata[0].key == "format" && file.metadata[0].value == "pt")
            held.append(file.tensors)
            if !file.entries.isEmpty { described.append((name, file.entries, file.tensors.count)) }
            attachments += file.attachments.map { SideFile(name: $0.name, bytes: file.bytes, range: $0.offset..<$0.offset + $0.byteCount) }
        }
        var joined: [StoredTensor]
        if let ranks = DeepSeekRanks.ranks(of: fileNames) {
            joined = try joinShards(held, ranks)
            isDivided = true
        } else {
            joined = held.flatMap { $0 }
            try Self.checkNames(
                of: joined, against: found.index, path: directory, fileNames: fileNames, addedFiles: found.added, findings: &findings)
        }

        // What travels inside a file belongs to it more than what lies beside it.
        for name in found.sideFiles where !attachments.contains(where: { $0.name == name }) {
            let file = try source.open(name)
            sideFiles.append(SideFile(name: name, bytes: file, range: 0..<(try file.size())))
        }
        for attachment in attachments where attachment.name != "config.json" {
            if SafetensorsIndex.isPlainName(attachment.name), !attachment.name.hasPrefix(".") { sideFiles.append(attachment) }
        }
        let entries = try LlamaCppSplit.joined(described)
        if !entries.isEmpty {
            // A file that describes its model says more than what lies beside it.
            let reading = try LlamaCppReading(joined, entries, isUnstacked: isUnstacked) { try files[$0.file].read($0.byteCount, at: $0.offset) }
            joined = try inOrder(reading.tensors, reading.paired)
            config = .object(reading.config)
            findings = reading.notes.map { Finding($0.subject, $0.text) }
            self.entries = entries
            // What lies beside it is not about it.
            sideFiles = reading.files.map { name, bytes in
                SideFile(name: name, bytes: MadeBytes(bytes, path: directory + "/" + fileNames[0] + ":" + name), range: 0..<bytes.count)
            }
        } else if let attachment = attachments.first(where: { $0.name == "config.json" }) {
            config = try Self.readConfig(directory + "/" + fileNames[0] + ":config.json", attachment.range.count) {
                try attachment.bytes.read(attachment.range.count, at: attachment.range.lowerBound)
            }
        } else if try source.names().contains("config.json"), try source.entry("config.json") == nil {
            throw CheckpointFailure.missing(path: directory + "/config.json")
        } else if case .file(let size)? = try source.entry("config.json") {
            config = try Self.readConfig(directory + "/config.json", size) { try source.read("config.json", limit: Self.configLimit) }
        }
        if isUnstacked, Mistral.isNative(joined) { joined = try takeNative(joined) }
        roles = ModelRoles(Architecture.named(config["model_type"]?.string), layers: languageConfig["num_hidden_layers"]?.int)
        let descriptions = try QuantizationDescription.all(config: config) { name in
            guard let file = sideFiles.first(where: { $0.name == name }) else { return nil }
            return try Self.readConfig(directory + "/" + name, file.range.count) {
                try file.bytes.read(file.range.count, at: file.range.lowerBound)
            }.object
        }
        quantization = try QuantizationDescription.merged(descriptions)
        describedAt = descriptions.first?.place
        if let obstacle = quantization?.obstacle { findings.append(Finding(describedAt ?? "", obstacle)) }
        self.isUnstacked = isUnstacked
        var tensors = joined
        if isUnstacked { tensors = DialectRegistry.unstacked(joined, config: config) { findings.append(Finding($0, $1)) } }
        isAsStored = tensors.count == joined.count
        try recogniseWeights(tensors)
        try requireUniqueNames()
        checkMTP()
    }

    /// Opens files side by side: over the network each is a matter of waiting. What is wrong with the first is said first.
    private static func open(_ names: [String], in source: any SourceDirectory) -> [Result<TensorFile?, any Error>] {
        let opened = Lock([Result<TensorFile?, any Error>](repeating: .success(nil), count: names.count))
        let workers = source.isRemote ? 16 : ProcessFigures.processorCount
        try? ParallelLoop.run(count: names.count, workers: workers) {
        } body: { index, _ in
            let result = Result { try ContainerRegistry.open(source.open(names[index])) }
            opened.withLock { $0[index] = result }
        }
        return opened.withLock { $0 }
    }

    /// Tensors of which some have rows in another order than the model: those have a file of their own behind the others.
    private mutating func inOrder(_ tensors: [StoredTensor], _ paired: [(tensor: Int, headRows: Int)]) throws -> [StoredTensor] {
        guard !paired.isEmpty else { return tensors }
        var ordered = tensors
        var bytes = SegmentedBytes.Builder()
        for (index, headRows) in paired {
            ordered[index].offset = bytes.add(try PairedHalves(tensors[index], in: files[tensors[index].file], headRows: headRows))
            ordered[index].file = files.count
        }
        let path = directory + "/" + fileNames[0]
        files.append(bytes.finish(path: path, files: files.flatMap(\.files)))
        fileNames.append(fileNames[0])
        safetensors.append(nil)
        pyTorchFiles.append(false)
        return ordered
    }

    /// The checkpoint and vectors that no file of it holds.
    package func adding(_ made: [MadeTensor]) -> Checkpoint {
        var result = self
        for tensor in made {
            let bytes = tensor.values.flatMap { value in withUnsafeBytes(of: value.bitPattern.littleEndian) { Array($0) } }
            let path = directory + "/config.json:" + tensor.name
            let stored = StoredTensor(
                name: tensor.name, type: .f32, shape: [tensor.values.count], file: result.files.count, offset: 0, byteCount: bytes.count)
            result.files.append(MadeBytes(bytes, path: path))
            result.fileNames.append("config.json:" + tensor.name)
            result.safetensors.append(nil)
            result.pyTorchFiles.append(false)
            result.weights.append(Weight(name: tensor.name, dimensions: stored.shape, layout: .dense(.f32), stored: [stored]))
        }
        return result
    }

    /// Tensors under Mistral's own names, and the configuration beside them, as Hugging Face has both.
    private mutating func takeNative(_ tensors: [StoredTensor]) throws -> [StoredTensor] {
        let name = MistralParameters.fileName
        if let bytes = try sideFile(name, limit: Self.configLimit) {
            let parameters = try Self.readConfig(directory + "/" + name, bytes.count) { bytes }
            let translated = try MistralParameters.config(of: parameters.object ?? [:])
            // Another description of the same model must not say another thing.
            for (field, value) in translated.members {
                guard let other = config[field], other.double != value.double || other.bool != value.bool else { continue }
                guard other != .null, value.object == nil, value.array == nil, value.string == nil else { continue }
                throw CheckpointFailure.descriptions(
                    "config.json", name, reason: "\(field) is \(other.text(pretty: false)) and \(value.text(pretty: false))")
            }
            if config.object?.members.isEmpty == false { findings.append(Finding("config.json", "lies beside \(name), which is read in its place")) }
            config = .object(translated)
            sideFiles.removeAll { $0.name == name }
        } else if config.object?.members.isEmpty ?? true {
            config = .object(try MistralParameters.config(of: [:]))
        } else if !Mistral.family.modelTypes.contains(config["model_type"]?.string ?? "") {
            return tensors
        }
        // No file holds a tensor under the name that it has here.
        safetensors = files.map { _ in nil }
        findings.append(Finding(name, "names and configuration are Mistral's own; they are read as Hugging Face has them"))
        let renamed = Mistral.canonical(tensors)
        var places: [String: Int] = [:]
        for (index, tensor) in renamed.enumerated() {
            guard let other = places.updateValue(index, forKey: tensor.name) else { continue }
            throw CheckpointFailure.contradiction(
                tensor: tensors[index].name, file: fileNames[tensor.file],
                reason: "and \(tensors[other].name) are both \(tensor.name); only one of them can be")
        }
        return renamed
    }

    private func requireUniqueNames() throws {
        var places: [String: Int] = [:]
        places.reserveCapacity(weights.count)
        for (index, weight) in weights.enumerated() {
            guard let other = places.updateValue(index, forKey: weight.name) else { continue }
            throw CheckpointFailure.contradiction(
                tensor: weight.stored[0].name, file: fileName(of: weight),
                reason: "and \(weights[other].stored[0].name) are both the weight \(weight.name); only one of them can be")
        }
    }

    private static func checkNames(
        of tensors: [StoredTensor], against index: SafetensorsIndex?, path: String, fileNames: [String], addedFiles: [String],
        findings: inout [Finding]
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
        let added = Set(addedFiles)
        unlisted.removeAll { name in seen[name].map { added.contains(fileNames[$0]) } ?? false }
        for (name, place) in index.fileOfTensor where seen[name].map({ fileNames[$0] }) != index.files[place] {
            throw SafetensorsFailure(path, .indexMissingTensor(file: index.files[place], tensor: name))
        }
        if let first = unlisted.min() {
            findings.append(
                Finding(
                    first, "is stored in a shard but not in the index\(unlisted.count > 1 ? " (\(unlisted.count) such tensors)" : ""); it is kept"))
        }
    }

    static func readConfig(_ path: String, _ size: Int, _ read: () throws -> [UInt8]) throws -> JSONValue {
        guard size <= configLimit else { throw FileFailure(.read, path, reason: .fileTooLarge) }
        do {
            let value = try JSONValue(parsing: read())
            guard value.object != nil else { throw CheckpointFailure.configNotObject(path: path) }
            return value
        } catch let error as JSONError {
            throw CheckpointFailure.config(path: path, error)
        }
    }

    /// Compares the layers that exist beyond `num_hidden_layers` with `num_nextn_predict_layers`.
    private mutating func checkMTP() {
        let config = languageConfig
        guard let layers = config["num_hidden_layers"]?.int else { return }
        let extra = Set(weights.lazy.compactMap { WeightName.layer($0.name) }.filter { $0 >= layers }).count
        let promised = config["num_nextn_predict_layers"]?.int ?? 0
        if extra != promised {
            findings.append(
                Finding("config.json", "promises \(promised) multi-token-prediction layers (num_nextn_predict_layers) but the tensors hold \(extra)"))
        }
    }

    /// The configuration of the language model: config.json itself, or the part of it that describes the language model of several.
    package var languageConfig: JSONValue {
        for key in ["text_config", "language_config", "llm_config"] {
            guard var inner = config[key]?.object, !inner.members.isEmpty else { continue }
            // Said of the whole, it is of the language model, which has the embedding and the head.
            if let ties = config["tie_word_embeddings"], ties != .null { inner["tie_word_embeddings"] = ties }
            return .object(inner)
        }
        if let inner = config["thinker_config"]?["text_config"], inner.object != nil { return inner }
        return config
    }

    /// The text of a side file; nil if there is none of this name.
    package func sideFile(_ name: String, limit: Int) throws -> [UInt8]? {
        guard let file = sideFiles.first(where: { $0.name == name }) else { return nil }
        guard file.range.count <= limit else { throw FileFailure(.read, directory + "/" + name, reason: .fileTooLarge) }
        return try file.bytes.read(file.range.count, at: file.range.lowerBound)
    }

    /// Whether a file's metadata is `format: pt` and nothing else.
    package func isOfPyTorch(file: Int) -> Bool { pyTorchFiles.indices.contains(file) && pyTorchFiles[file] }

    package func fileName(of weight: Weight) -> String { fileNames[weight.stored[0].file] }
}
