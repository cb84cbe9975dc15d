import Formats
import Tensors

/// The names and cuts of DeepSeek's inference code: `model{i}-mp{N}.safetensors`, one file a rank
/// (deepseek-ai/DeepSeek-V3:inference/convert.py).
public enum DeepSeekShards {
    /// How a weight is divided among ranks.
    public enum Division: Sendable, Equatable {
        case rows, columns
        /// The same on every rank.
        case whole
    }

    /// Hugging Face's name of a module, DeepSeek's, and how it is divided.
    static let modules: [(huggingFace: String, deepSeek: String, division: Division)] = [
        ("embed_tokens", "embed", .rows), ("input_layernorm", "attn_norm", .whole), ("post_attention_layernorm", "ffn_norm", .whole),
        ("q_proj", "wq", .rows), ("q_a_proj", "wq_a", .whole), ("q_a_layernorm", "q_norm", .whole), ("q_b_proj", "wq_b", .rows),
        ("kv_a_proj_with_mqa", "wkv_a", .whole), ("kv_a_layernorm", "kv_norm", .whole), ("kv_b_proj", "wkv_b", .rows), ("o_proj", "wo", .columns),
        ("gate", "gate", .whole), ("gate_proj", "w1", .rows), ("down_proj", "w2", .columns), ("up_proj", "w3", .rows), ("norm", "norm", .whole),
        ("lm_head", "head", .rows),
    ]

    public static func fileName(rank: Int, of ranks: Int) -> String { "model\(rank)-mp\(ranks).safetensors" }

    /// How many ranks these files are the shards of; nil if they are not such shards, or not all of them.
    static func ranks(of names: [String]) -> Int? {
        let count = names.count
        return Set(names) == Set((0..<count).map { fileName(rank: $0, of: count) }) ? count : nil
    }

    /// The rank of a file name among `ranks`.
    static func rank(of name: String, _ ranks: Int) -> Int? { (0..<ranks).first { fileName(rank: $0, of: ranks) == name } }

    /// DeepSeek's name of a tensor and how it is divided; nil for tensors that the inference code has no place for.
    public static func name(of tensor: String) -> (name: String, division: Division)? {
        guard let place = position(tensor),
            let module = isIndexer(place.words) ? indexer(place) : modules.first(where: { $0.huggingFace == place.words[place.module] })
        else { return nil }
        var words = place.words
        words[place.module] = Substring(module.deepSeek)
        if words[0] == "model" { words.removeFirst() }
        let renamed = ["self_attn": "attn", "mlp": "ffn", "weight_scale_inv": "scale", "e_score_correction_bias": "bias"]
        let name = words.map { renamed[String($0)] ?? String($0) }.joined(separator: ".")
        return (name, isRoutedExpert(place.words) ? .whole : module.division)
    }

    /// Hugging Face's name of a tensor and how it was divided; nil for names that are not DeepSeek's.
    public static func huggingFaceName(of tensor: String) -> (name: String, division: Division)? {
        guard let place = position(tensor),
            let module = isIndexer(place.words) ? indexer(place) : modules.first(where: { $0.deepSeek == place.words[place.module] })
        else { return nil }
        var words = place.words
        words[place.module] = Substring(module.huggingFace)
        let last = words.count - 1
        if words[last] == "scale" { words[last] = "weight_scale_inv" }
        if words[last] == "bias", module.huggingFace == "gate" { words[last] = "e_score_correction_bias" }
        let renamed = ["attn": "self_attn", "ffn": "mlp"]
        var name = words.map { renamed[String($0)] ?? String($0) }.joined(separator: ".")
        if module.huggingFace != "lm_head" { name = "model." + name }
        return (name, isRoutedExpert(place.words) ? .whole : module.division)
    }

    private static func position(_ tensor: String) -> (words: [Substring], module: Int)? {
        let words = tensor.split(separator: ".", omittingEmptySubsequences: false)
        return words.count >= 2 ? (words, words.count - 2) : nil
    }

    /// V3.2's sparse attention has the same names in both, and every rank has all of it
    /// (deepseek-ai/DeepSeek-V3.2-Exp:inference/convert.py).
    private static func isIndexer(_ words: [Substring]) -> Bool { words.contains("indexer") }

    private static func indexer(_ place: (words: [Substring], module: Int)) -> (huggingFace: String, deepSeek: String, division: Division)? {
        let name = String(place.words[place.module])
        return (name, name, .whole)
    }

    private static func isRoutedExpert(_ words: [Substring]) -> Bool { words.contains("experts") }

    /// The rank that has routed expert `index` of `count`.
    public static func rank(ofExpert index: Int, count: Int, ranks: Int) -> Int { index / (count / ranks) }
}

/// A tensor put together from the parts that ranks hold.
struct JoinedTensor: ByteSegment {
    /// Parts one after another (rows), or side by side in every row (columns).
    var parts: [(bytes: any ByteSource, offset: Int)]
    /// Rows of each part, and bytes of a part's row: all parts are alike.
    var rows: Int
    var rowBytes: Int
    var isSideBySide: Bool

    var byteCount: Int { parts.count * rows * rowBytes }

    func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        // Stretches of the whole that lie in one part.
        let stretch = isSideBySide ? rowBytes : rows * rowBytes
        var at = range.lowerBound
        while at < range.upperBound {
            let inside = at % stretch
            let count = min(stretch - inside, range.upperBound - at)
            let number = at / stretch
            let part = parts[number % parts.count]
            let offset = part.offset + (isSideBySide ? number / parts.count * rowBytes : 0) + inside
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer[at - range.lowerBound..<at - range.lowerBound + count])
            guard try part.bytes.read(into: target, at: offset) == count else {
                throw ShortRead(path: part.bytes.path, tensor: "a rank's part", offset: offset)
            }
            at += count
        }
    }
}

extension Checkpoint {
    /// The tensors of a model out of those of its ranks, under Hugging Face's names. Parts are joined in a file of their own.
    mutating func joinShards(_ tensors: [[StoredTensor]], _ ranks: Int) throws -> [StoredTensor] {
        let order = fileNames.map { DeepSeekShards.rank(of: $0, ranks) ?? 0 }
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
            guard let first = held.min(by: { $0.key < $1.key })?.value, let place = DeepSeekShards.huggingFaceName(of: name) else {
                throw CheckpointFailure.contradiction(
                    tensor: name, file: fileNames[parts[name]?.values.first?.file ?? 0],
                    reason: "has a name that DeepSeek's inference code does not know; are these files shards of its convert.py?")
            }
            var tensor = first
            tensor.name = place.name
            for (rank, other) in held where other.type != first.type || other.shape != first.shape {
                throw CheckpointFailure.contradiction(
                    tensor: name, file: DeepSeekShards.fileName(rank: rank, of: ranks), reason: "is \(other.summary), elsewhere \(first.summary)")
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
