import CHDF5Files
import Synchronization
import Tensors

/// How the chunks of an HDF5 file are compressed, after their bytes were shuffled.
public enum HDF5Filter: String, Sendable, CaseIterable {
    /// Registered filter 32015; h5py reads it with hdf5plugin.
    case zstd
    /// Built into every HDF5 library.
    case deflate
    /// One contiguous piece for each tensor.
    case none
}

/// HDF5 files: a tensor's name is its path, `model/layers/0/mlp/gate/weight`. Keras' `.weights.h5` files are read as plain tensors.
public enum HDF5: Container {
    public static let name = "hdf5"
    public static let endings = [".h5", ".hdf5"]
    public static let indexName = "model.h5.index.json"
    public static let isSingleFile = true

    /// Where small files lie: `config.json` of a checkpoint that is one file.
    static let attachmentGroup = "__files__"

    /// libhdf5 keeps global state: one call at a time, and no child is forked while another thread is inside.
    static let library = Mutex(())

    public static func recognises(_ start: [UInt8]) -> Bool { start.starts(with: [0x89, 0x48, 0x44, 0x46, 0x0D, 0x0A, 0x1A, 0x0A]) }

    public static func open(_ file: PositionedFile) throws -> TensorFile {
        guard recognises(try file.read(8, at: 0)) else {
            throw ContainerFailure(file.path, "this is no HDF5 file: its signature is missing; copy it again")
        }
        let index = try HDF5Index(of: file)
        let size = try file.size()
        var bytes = SegmentedBytes.Builder(file, size: size)
        var tensors: [StoredTensor] = []
        var attachments: [TensorFile.Attachment] = []
        for dataset in index.datasets {
            let place = try dataset.place(in: file, size: size, &bytes)
            if dataset.path.hasPrefix(attachmentGroup + "/") {
                attachments.append(.init(name: String(dataset.path.dropFirst(attachmentGroup.count + 1)), offset: place.offset, byteCount: place.byteCount))
            } else {
                tensors.append(place)
            }
        }
        tensors.sort { ($0.offset, $0.byteCount, $0.name) < ($1.offset, $1.byteCount, $1.name) }
        return TensorFile(tensors: tensors, bytes: bytes.finish(path: file.path, files: [file]), attachments: attachments)
    }

    public static func fileName(_ place: (number: String, count: String)?) -> String {
        place.map { "model-\($0.number)-of-\($0.count).h5" } ?? "model.h5"
    }

    public static let pack: (@Sendable (TensorFile, String, PackingOptions) throws -> Void)? = { source, path, options in
        try HDF5Writer(source, options).write(to: path)
    }
}
