import Architectures
import Formats
import StrictJSON
import Tensors

/// Which files a path means: the tensor files, their index, and what lies beside them.
struct CheckpointFiles {
    var source: any SourceDirectory
    var files: [String]
    var index: SafetensorsIndex?
    var sideFiles: [String] = []
    var findings: [Finding] = []
    /// Tensor files beside an index that it does not name.
    var strays: [String] = []
    /// Those of them that are taken all the same.
    private(set) var added: [String] = []

    /// - Parameter place: a directory; or one and the name of a tensor file of any container, or of an index file.
    init(at place: SourcePlace) throws {
        let listed = try place.name.map { [$0] } ?? (place.directory.isRemote ? [] : place.directory.names())
        if let consumed = ConsumedName.among(listed).values.map(\.text).min() {
            throw CheckpointFailure.consumed(path: place.directory.path(of: consumed))
        }
        guard let name = place.name else {
            try self.init(place.directory)
            return
        }
        let start = try place.directory.open(name).read(64, at: 0)
        if start.first == UInt8(ascii: "{") {
            try self.init(index: name, in: place.directory)
            return
        }
        guard ContainerRegistry.container(of: name, start: start) != nil else {
            throw CheckpointFailure.notACheckpointFile(path: place.directory.path(of: name))
        }
        self.init(place.directory, files: [name])
        sideFiles = try takeSideFiles(besides: [name])
    }

    private init(_ source: any SourceDirectory, files: [String]) {
        self.source = source
        self.files = files
    }

    private init(_ source: any SourceDirectory) throws {
        let names = try source.names()
        guard let found = ContainerRegistry.choose(among: names) else { throw CheckpointFailure.noTensorFiles(path: source.path) }
        if let index = found.index {
            try self.init(index: index, in: source)
            return
        }
        let choice = try ModelFiles(among: found.files, in: source.path)
        self.init(source, files: choice.files)
        sideFiles = try takeSideFiles(besides: choice.files)
        // Other containers' files are other forms of the model.
        let foreign = names.filter { !$0.hasPrefix(".") && ContainerRegistry.isTensorFile($0) && !found.files.contains($0) }
        strays = choice.others + foreign
    }

    private init(index name: String, in source: any SourceDirectory) throws {
        var index = try SafetensorsIndex(source.read(name, limit: SafetensorsIndex.sizeLimit), path: source.path(of: name))
        // An archive stands for the file that it restores.
        for place in index.files.indices {
            let file = index.files[place]
            let found = try ContainerRegistry.candidates(for: file).first {
                if case .file? = try source.entry($0) { true } else { false }
            }
            guard let found else {
                let tensor = index.fileOfTensor.filter { $0.value == place }.keys.min() ?? ""
                throw SafetensorsFailure(source.path(of: name), .indexMissingFile(file: file, tensor: tensor))
            }
            index.files[place] = found
        }
        let files = index.files.sorted { $0.isBefore($1) }
        guard !files.isEmpty else { throw CheckpointFailure.noTensorFiles(path: source.path) }
        self.init(source, files: files)
        self.index = index
        sideFiles = try takeSideFiles(besides: files + [name])
        strays = try source.names().filter { ContainerRegistry.isTensorFile($0) && !$0.hasPrefix(".") && !files.contains($0) && $0 != name }
            .filter { !ContainerRegistry.isIndex($0) }
    }

    /// Takes a file that the index forgot if it holds the multi-token-prediction layers which config.json promises and the index lacks, and
    /// nothing else; names all other strays.
    mutating func takePromisedModule() throws {
        guard !strays.isEmpty else { return }
        let config: JSONValue
        if case .file(let size)? = try source.entry("config.json"), size <= Checkpoint.configLimit {
            let bytes = try source.read("config.json", limit: Checkpoint.configLimit)
            config = (try? JSONValue(parsing: bytes)) ?? .null
        } else {
            config = .null
        }
        let inner = ["text_config", "language_config", "llm_config"].lazy.compactMap { config[$0] }.first ?? config
        /// No model has so many layers that the sum of two such numbers is none.
        func count(_ field: String) -> Int? { inner[field]?.int.flatMap { (0..<1 << 24).contains($0) ? $0 : nil } }
        let promised = count("num_hidden_layers").map { $0 + (count("num_nextn_predict_layers") ?? 0) } ?? 0
        // Layers that config.json counts and no file of the model holds anything of.
        var present = Set<Int>()
        if let index {
            present = Set(index.fileOfTensor.keys.compactMap { WeightName.layer($0) })
        } else if promised > 0 {
            for name in files {
                for tensor in try ContainerRegistry.open(source.open(name))?.tensors ?? [] {
                    WeightName.layer(tensor.name).map { _ = present.insert($0) }
                }
            }
        }
        for name in strays {
            if promised > 0, !present.isEmpty, let file = try Self.readable(name, in: source), !file.tensors.isEmpty,
                file.tensors.allSatisfy({ WeightName.layer($0.name).map { $0 < promised && !present.contains($0) } ?? false })
            {
                added.append(name)
                present.formUnion(file.tensors.compactMap { WeightName.layer($0.name) })
                findings.append(
                    Finding(
                        name,
                        "is not listed but holds layers that config.json promises and no other file has (num_hidden_layers, num_nextn_predict_layers); it is taken"
                    ))
            } else {
                findings.append(
                    Finding(name, index == nil ? "is no part of the model beside it and is left out" : "is not in the index and is left out"))
            }
        }
        files += added
    }

    /// A tensor file, or nil if it is none. That it does not come is no reason to do without it.
    private static func readable(_ name: String, in source: any SourceDirectory) throws -> TensorFile? {
        do { return try ContainerRegistry.open(source.open(name)) } catch {
            if source.isRemote, !(error is SafetensorsFailure), !(error is ContainerFailure) { throw error }
            return nil
        }
    }

    /// Plain files that belong to a model but hold no tensors. Hidden files, other tensor files, other forms of the model and what belongs to
    /// its training stay behind; so does what only a link brings in from elsewhere. All but the hidden ones are named.
    private mutating func takeSideFiles(besides used: [String]) throws -> [String] {
        let used = Set(used)
        var taken: [String] = []
        for name in try source.names() {
            guard !name.hasPrefix("."), !used.contains(name), !ContainerRegistry.isTensorFile(name), name != "config.json",
                !name.hasSuffix("recast.manifest.json"), ConsumedName(parsing: name) == nil
            else { continue }
            switch try source.entry(name) {
            case .directory?: continue
            case nil:
                findings.append(Finding(name, "is a link to nothing and is left out"))
                continue
            case .other?:
                findings.append(Finding(name, "is no file and is left out"))
                continue
            case .file?: break
            }
            if SideFiles.isForeign(name) {
                findings.append(Finding(name, "is another form of the model, or belongs to its training, and is left out"))
            } else if try source.leaves(name) {
                findings.append(Finding(name, "is a link out of the directory and is left out"))
            } else {
                taken.append(name)
            }
        }
        return taken
    }
}

/// Files beside a model that a conversion must not carry.
enum SideFiles {
    /// Other forms of the weights, whose conversion this is not, and the state of a training.
    static func isForeign(_ name: String) -> Bool {
        let lowered = name.lowercased()
        let endings = [
            ".tmp", ".part", ".partial", ".aria2", ".incomplete", ".crdownload", ".lock", ".gguf", ".ggml", ".onnx", ".onnx_data", ".msgpack",
            ".tflite", ".mlmodel", ".ckpt", ".npz", ".engine",
        ]
        let training: Set<String> = ["adapter_config.json", "trainer_state.json", "training_args.json", "scheduler.json", "optimizer.json"]
        return endings.contains { lowered.hasSuffix($0) } || training.contains(lowered) || lowered.contains(".safetensors.index")
    }
}

/// Which of several tensor files of one container are the model, where no index says so.
struct ModelFiles {
    var files: [String]
    /// What lies beside it: other forms, adapters, the state of an optimizer.
    var others: [String]

    /// - Throws: ``CheckpointFailure/ambiguousFiles(path:_:_:)`` if two may be.
    init(among names: [String], in directory: String) throws {
        if DeepSeekRanks.ranks(of: names) != nil {
            (files, others) = (names, [])
            return
        }
        let candidates = names.filter { !Self.isBeside($0) }
        let families = Dictionary(grouping: candidates, by: Self.stem)
        // The released names first, then Mistral's own; files of one other name are a model too.
        for stem in ["model", "pytorch_model", "consolidated"] {
            guard let found = families[stem] else { continue }
            files = try Self.whole(found, in: directory)
            others = names.filter { !found.contains($0) }
            return
        }
        let stems = families.keys.sorted()
        if stems.count > 1, let first = families[stems[0]]?.first, let second = families[stems[1]]?.first {
            throw CheckpointFailure.ambiguousFiles(path: directory, first, second)
        }
        // Only what is usually beside a model: whoever gives the directory means it.
        let found = candidates.isEmpty ? names : candidates
        if candidates.isEmpty, Set(names.map(Self.stem)).count > 1 { throw CheckpointFailure.ambiguousFiles(path: directory, names[0], names[1]) }
        files = try Self.whole(found, in: directory)
        others = names.filter { !found.contains($0) }
    }

    /// Adapters and what a training leaves behind.
    private static func isBeside(_ name: String) -> Bool {
        let lowered = name.lowercased()
        let stems = ["adapter", "optimizer", "optim", "scheduler", "scaler", "rng_state", "random_states", "training_args", "trainer", "ema", "lora"]
        return stems.contains { lowered.hasPrefix($0) }
    }

    /// `model` of `model-00001-of-00003.safetensors`; of files that are only numbered the name with `#` for the number, which is another family
    /// than the file without one.
    private static func stem(_ name: String) -> String {
        let ending = ContainerRegistry.containers.flatMap { $0.endings }.filter { name.hasSuffix($0) }.max { $0.count < $1.count } ?? ""
        let plain = name.dropLast(ending.count)
        if let match = plain.firstMatch(of: /-[0-9]+-of-[0-9]+$/) { return String(plain[..<match.range.lowerBound]) }
        if let match = plain.firstMatch(of: /[0-9]+$/) { return plain[..<match.range.lowerBound] + "#" }
        return String(plain)
    }

    /// All shards of one cut, or the one file without a number.
    private static func whole(_ names: [String], in directory: String) throws -> [String] {
        var counts: [Int: [Int]] = [:]
        var plain: [String] = []
        for name in names {
            guard let match = name.prefix(while: { $0 != "." }).firstMatch(of: /([0-9]+)-of-([0-9]+)$/), let number = Int(match.1),
                let count = Int(match.2)
            else {
                plain.append(name)
                continue
            }
            counts[count, default: []].append(number)
        }
        guard let cut = counts.first else { return names }
        let shard = names.first { !plain.contains($0) } ?? names[0]
        if let other = plain.first { throw CheckpointFailure.ambiguousFiles(path: directory, shard, other) }
        guard counts.count == 1 else {
            let other = names.first { !$0.contains("-of-" + shard.prefix { $0 != "." }.suffix(5)) } ?? names[names.count - 1]
            throw CheckpointFailure.ambiguousFiles(path: directory, shard, other)
        }
        // Some tools count from 0.
        let numbers = Set(cut.value)
        if numbers != Set(1...max(1, cut.key)), numbers != Set(0..<max(1, cut.key)) {
            throw CheckpointFailure.missingShards(path: directory, found: numbers.count, of: cut.key)
        }
        return names
    }
}
