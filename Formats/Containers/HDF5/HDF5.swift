import CHDF5Files
import Runtime
import Tensors

/// How the chunks of an HDF5 file are compressed, after their bytes were shuffled.
package enum HDF5Filter: String, Sendable, CaseIterable {
    /// Registered filter 32015; h5py reads it with hdf5plugin.
    case zstd
    /// Built into every HDF5 library.
    case deflate
    /// One contiguous piece for each tensor.
    case none
}

/// HDF5 files: a tensor's name is its path, `model/layers/0/mlp/gate/weight`. Keras' `.weights.h5` files are read as plain tensors.
package enum HDF5: PackedContainer {
    package static let name = "hdf5"
    package static let endings = [".h5", ".hdf5"]
    package static let indexName = "model.h5.index.json"
    package static let isSingleFile = true

    /// Where small files lie: `config.json` of a checkpoint that is one file.
    static let attachmentGroup = "__files__"

    /// libhdf5 keeps global state: one call at a time, and no child is forked while another thread is inside.
    static let library = Lock(())

    /// Loads libhdf5, which only these files need; says why if it cannot be had.
    static func missingLibrary() -> String? {
        var reason = [CChar](repeating: 0, count: 256)
        guard library.withLock({ _ in ch5_load(&reason, reason.count) }) != 0 else { return nil }
        let text = String(decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return "HDF5 files need libhdf5 (apt-get install libhdf5-dev, or brew install hdf5): \(text)"
    }

    /// The version of libhdf5, or why there is none.
    package static func libraryVersion() -> Result<String, ContainerFailure> {
        if let missing = missingLibrary() { return .failure(ContainerFailure("libhdf5", missing)) }
        var text = [CChar](repeating: 0, count: 64)
        library.withLock { _ in ch5_version(&text, text.count) }
        return .success(String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
    }

    package static func recognises(_ start: [UInt8]) -> Bool { start.starts(with: [0x89, 0x48, 0x44, 0x46, 0x0D, 0x0A, 0x1A, 0x0A]) }

    package static func open(_ file: any SourceFile) throws -> TensorFile {
        guard recognises(try file.read(8, at: 0)) else {
            throw ContainerFailure(file.path, "this is no HDF5 file: its signature is missing; copy it again")
        }
        guard file.stored(1, at: 0) != nil else {
            throw ContainerFailure(file.path, "libhdf5 reads files of this machine only; download it and give its path")
        }
        let index = try HDF5Index(of: file)
        let size = try file.size()
        var bytes = SegmentedBytes.Builder(file, size: size)
        var tensors: [StoredTensor] = []
        var attachments: [TensorFile.Attachment] = []
        for dataset in index.datasets {
            let place = try dataset.place(in: file, size: size, &bytes)
            if dataset.path.hasPrefix(attachmentGroup + "/") {
                attachments.append(
                    .init(name: String(dataset.path.dropFirst(attachmentGroup.count + 1)), offset: place.offset, byteCount: place.byteCount))
            } else {
                tensors.append(place)
            }
        }
        tensors.sort { ($0.offset, $0.byteCount, $0.name) < ($1.offset, $1.byteCount, $1.name) }
        return TensorFile(tensors: tensors, bytes: bytes.finish(path: file.path, files: [file]), attachments: attachments)
    }

    package static func fileName(_ place: (number: String, count: String)?) -> String {
        place.map { "model-\($0.number)-of-\($0.count).h5" } ?? "model.h5"
    }

    /// A name becomes a path, so it must not lead elsewhere, nor be the group that another tensor lies in.
    package static func obstacle(to tensors: [TensorDeclaration]) -> String? {
        if let obstacle = missingLibrary() ?? Safetensors.obstacle(to: tensors) { return obstacle }
        var groups = Set<Substring>()
        for tensor in tensors {
            let parts = tensor.name.split(separator: ".", omittingEmptySubsequences: false)
            guard !parts.contains(where: { $0.isEmpty }), !tensor.name.utf8.contains(UInt8(ascii: "/")), !tensor.name.utf8.contains(0),
                parts[0] != attachmentGroup
            else { return "\(tensor.name): this name is no path of an HDF5 file" }
            for place in tensor.name.indices where tensor.name[place] == "." { groups.insert(tensor.name[..<place]) }
        }
        return tensors.first { groups.contains($0.name[...]) }.map {
            "\($0.name): other tensors' names begin with this one's, and an HDF5 file cannot hold both"
        }
    }

    package static func pack(_ source: TensorFile, to path: String, _ options: PackingOptions) throws {
        try HDF5Writer(source, options).write(to: path)
    }
}
