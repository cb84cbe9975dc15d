import Architectures
import Formats
import Tensors

extension Checkpoint {
    /// The tensors of a model out of those of its ranks, under Hugging Face's names. Parts are joined in a file of their own.
    mutating func joinShards(_ tensors: [[StoredTensor]], _ ranks: Int) throws -> [StoredTensor] {
        let order = fileNames.map { DeepSeekRanks.rank(of: $0, ranks) ?? 0 }
        var parts: [String: [Int: StoredTensor]] = [:]
        var names: [String] = []
        for tensor in tensors.joined() {
            if parts[tensor.name] == nil { names.append(tensor.name) }
            guard parts[tensor.name, default: [:]].updateValue(tensor, forKey: order[tensor.file]) == nil else {
                throw CheckpointFailure.contradiction(tensor: tensor.name, file: fileNames[tensor.file], reason: "is stored twice")
            }
        }
        var bytes = SegmentedBytes.Builder()
        var result: [StoredTensor] = []
        let number = files.count
        for name in names {
            let held = parts[name] ?? [:]
            guard let first = held.min(by: { $0.key < $1.key })?.value, let place = DeepSeekRanks.canonicalName(of: name) else {
                throw CheckpointFailure.contradiction(
                    tensor: name, file: fileNames[parts[name]?.values.first?.file ?? 0],
                    reason: "has a name that DeepSeek's inference code does not know; are these files shards of its convert.py?")
            }
            var tensor = first
            tensor.name = place.name
            for (rank, other) in held where other.type != first.type || other.shape != first.shape {
                throw CheckpointFailure.contradiction(
                    tensor: name, file: DeepSeekRanks.fileName(rank: rank, of: ranks), reason: "is \(other.summary), elsewhere \(first.summary)")
            }
            let isExpert = place.division == .whole && WeightName.isRoutedExpert(place.name)
            guard held.count == ranks || isExpert && held.count == 1 else {
                throw CheckpointFailure.contradiction(
                    tensor: name, file: fileNames[first.file], reason: "is on \(held.count) of \(ranks) ranks; a shard is incomplete")
            }
            if place.division != .whole, ranks > 1 {
                let rows = first.shape.first ?? 1
                guard !first.shape.isEmpty, place.division == .rows || first.shape.count == 2 else {
                    throw CheckpointFailure.contradiction(
                        tensor: name, file: fileNames[first.file], reason: "is \(first.summary), which cannot be a part of a matrix")
                }
                let joined = JoinedTensor(
                    parts: (0..<ranks).compactMap { rank in held[rank].map { (files[$0.file], $0.offset) } }, rows: rows,
                    rowBytes: rows == 0 ? 0 : first.byteCount / rows, isSideBySide: place.division == .columns)
                tensor.shape[place.division == .rows ? 0 : 1] *= ranks
                guard let size = Shape.byteCount(tensor.shape, tensor.type), size == joined.byteCount else {
                    throw CheckpointFailure.contradiction(
                        tensor: name, file: fileNames[first.file], reason: "has parts whose rows are no whole bytes")
                }
                tensor.byteCount = size
                tensor.file = number
                tensor.offset = bytes.add(joined)
            }
            result.append(tensor)
        }
        files.append(bytes.finish(path: directory + "/model*-mp\(ranks).safetensors", files: files.flatMap(\.files)))
        fileNames.append("model*-mp\(ranks).safetensors")
        // No file holds a tensor under the name that it has here.
        safetensors = files.map { _ in nil }
        return result
    }
}
