import Formats
import Tensors

/// Which files a path means: the tensor files, their index, and what lies beside them.
struct CheckpointFiles {
    var directory: String
    var files: [String]
    var index: SafetensorsIndex?
    var sideFiles: [String] = []
    var findings: [Finding] = []

    /// - Parameter path: a directory, a tensor file of any container, or an index file.
    init(at path: String) throws {
        switch try FileTree.entry(path) {
        case nil: throw CheckpointFailure.missing(path: path)
        case .directory?: try self.init(directory: path)
        case .file?, .other?:
            let slash = path.lastIndex(of: "/")
            let directory = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
            let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
            let file = try PositionedFile.openForReading(path)
            let start = try file.read(min(64, file.size()), at: 0)
            if start.first == UInt8(ascii: "{") {
                try self.init(index: name, in: directory)
                return
            }
            guard ContainerRegistry.container(of: name, start: start) != nil else { throw CheckpointFailure.notACheckpointFile(path: path) }
            self.init(directory: directory, files: [name])
            sideFiles = try Self.sideFiles(in: directory, besides: [name])
        }
    }

    private init(directory: String, files: [String]) {
        self.directory = directory
        self.files = files
    }

    private init(directory: String) throws {
        guard let found = ContainerRegistry.choose(among: try FileTree.list(directory)) else {
            throw CheckpointFailure.noTensorFiles(path: directory)
        }
        if let index = found.index {
            try self.init(index: index, in: directory)
        } else {
            self.init(directory: directory, files: found.files)
            sideFiles = try Self.sideFiles(in: directory, besides: found.files)
        }
    }

    private init(index name: String, in directory: String) throws {
        var index = try SafetensorsIndex(reading: directory + "/" + name)
        // An archive stands for the file that it restores.
        for place in index.files.indices {
            let file = index.files[place]
            let found = try ContainerRegistry.candidates(for: file).first {
                if case .file? = try FileTree.entry(directory + "/" + $0) { true } else { false }
            }
            guard let found else {
                let tensor = index.fileOfTensor.filter { $0.value == place }.keys.min() ?? ""
                throw SafetensorsFailure(directory + "/" + name, .indexMissingFile(file: file, tensor: tensor))
            }
            index.files[place] = found
        }
        let files = index.files.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        guard !files.isEmpty else { throw CheckpointFailure.noTensorFiles(path: directory) }
        self.init(directory: directory, files: files)
        self.index = index
        sideFiles = try Self.sideFiles(in: directory, besides: files + [name])
        let strays = try FileTree.list(directory).filter { $0.hasSuffix(".safetensors") && !$0.hasPrefix(".") && !files.contains($0) }
        if !strays.isEmpty {
            findings.append(Finding(strays[0], "is not in the index and is ignored\(strays.count > 1 ? " (\(strays.count) such files)" : "")"))
        }
    }

    /// Plain files that belong to a model but hold no tensors. Hidden files and other tensor files stay behind.
    private static func sideFiles(in directory: String, besides used: [String]) throws -> [String] {
        let used = Set(used)
        return try FileTree.list(directory).filter { name in
            guard !name.hasPrefix("."), !used.contains(name), !ContainerRegistry.isTensorFile(name), name != "config.json",
                !name.hasSuffix("recast.manifest.json"), case .file? = try? FileTree.entry(directory + "/" + name)
            else { return false }
            return true
        }
    }
}
