import Checkpoints
import Formats
import StrictJSON
import Tensors

/// The digests that an earlier conversion recorded for the tensors of the source. Safetensors files carry no checksums; a source
/// that Recast wrote has them in its manifest, so a damaged shard is found while it is read.
struct SourceDigests: Sendable {
    private var digests: [String: String] = [:]

    static let none = SourceDigests()
    /// Some kilobytes a tensor, of a million tensors.
    private static let limit = 1 << 30

    private init() {}

    /// Reads `recast.manifest.json` of `checkpoint`; without one there is nothing to check.
    init(of checkpoint: Checkpoint) throws {
        // A checkpoint that is one file has its manifest under its own name.
        let isOne = checkpoint.files.count == 1 && ContainerRegistry.singleFile(checkpoint.fileNames[0]) != nil
        let name = isOne ? checkpoint.fileNames[0] + "." + Destination.manifestName : Destination.manifestName
        guard case .file? = try checkpoint.source.entry(name) else { return }
        let path = checkpoint.source.path(of: name)
        let bytes = try checkpoint.source.read(name, limit: Self.limit)
        do {
            var scanner = JSONScanner(bytes)
            try scanner.beginObject()
            while let key = try scanner.nextKey() {
                guard key == "weights" else {
                    _ = try JSONValue(scanning: &scanner)
                    continue
                }
                try scanner.beginArray()
                while try scanner.nextElement() {
                    let weight = try JSONValue(scanning: &scanner)
                    for tensor in weight["tensors"]?.array ?? [] {
                        // A digest of one matrix of a stack says nothing about the tensor as a whole.
                        if tensor["index"] == nil, let name = tensor["name"]?.string, let digest = tensor["sha256"]?.string { digests[name] = digest }
                    }
                }
            }
        } catch {
            throw CheckpointFailure.config(path: path, error)
        }
    }

    /// Whether every stored tensor of `weight` has a recorded digest.
    func cover(_ weight: Weight) -> Bool { !digests.isEmpty && weight.stored.allSatisfy { digests[$0.name] != nil } }

    /// Refuses a tensor whose bytes are not those that were recorded.
    func check(_ tensor: StoredTensor, _ digest: String, in checkpoint: Checkpoint) throws {
        if let expected = digests[tensor.name], expected != digest {
            throw ConversionFailure.sourceDigest(tensor: tensor.name, file: checkpoint.files[tensor.file].path)
        }
    }
}
