import Formats
import Runtime
import StrictJSON
import Tensors

/// Why a checkpoint cannot be opened or trusted.
package enum CheckpointFailure: Failure, Equatable {
    case missing(path: String)
    case noTensorFiles(path: String)
    /// A file that a conversion has freed the large tensors of.
    case consumed(path: String)
    case notACheckpointFile(path: String)
    case config(path: String, JSONError)
    case configNotObject(path: String)
    case unpaired([UnpairedTensor])
    /// Codes that no layout here reads, by what describes them.
    case unreadable(path: String, reason: String)
    /// Two places that describe the quantization differently.
    case descriptions(String, String, reason: String)
    case missingShards(path: String, found: Int, of: Int)
    case ambiguousFiles(path: String, String, String)
    case contradiction(tensor: String, file: String, reason: String)
    case badScale(tensor: String, file: String, value: String)
    /// A scale or zero point, by its place in the tensor.
    case badFigure(tensor: String, file: String, index: Int, StoredFault)

    package var kind: FailureKind {
        switch self {
        case .missing, .noTensorFiles, .consumed: .noInput
        default: .badData
        }
    }

    package var description: String {
        switch self {
        case .consumed(let path):
            "\(path): what is left of a file that a conversion with --consume-source has freed; give the same command again to continue it, or restore the file"
        case .missing(let path): "\(path): there is no such file or directory"
        case .noTensorFiles(let path):
            "\(path): no .safetensors file and no \("model.safetensors.index.json") here; give the directory, a file or an index of a checkpoint"
        case .notACheckpointFile(let path): "\(path): neither a safetensors file nor an index of one; give a checkpoint's directory, file or index"
        case .config(let path, let error): "\(path): the JSON text is malformed: \(error)"
        case .configNotObject(let path): "\(path): expected a JSON object"
        case .unpaired(let tensors):
            tensors[0].description
                + (tensors.count > 1
                    ? " (and \(tensors.count - 1) more: \(tensors.dropFirst().prefix(4).map(\.name).joined(separator: ", "))\(tensors.count > 5 ? ", ..." : ""))"
                    : "")
        case .unreadable(let path, let reason):
            "\(path): \(reason), so its codes cannot be converted, run or compared; --to keep copies them with their description"
        case .descriptions(let first, let second, let reason):
            "\(first) and \(second) describe the quantization differently: \(reason); remove the one that does not hold"
        case .missingShards(let path, let found, let count):
            "\(path): there is no index, and of the \(count) shards that the files' names promise \(found) are here; restore the others"
        case .ambiguousFiles(let path, let first, let second):
            "\(path): \(first) and \(second) may each be the model; give the file or the index that is meant, or move the other away"
        case .contradiction(let tensor, let file, let reason): "\(file): tensor \(tensor) \(reason)"
        case .badFigure(let tensor, let file, let index, let fault):
            "\(file): tensor \(tensor) holds \(fault.value) at place \(index); \(fault.reason), so the file is damaged or described wrongly"
        case .badScale(let tensor, let file, let value):
            "\(file): tensor \(tensor) holds the scale \(value); scales must be finite and not negative, so the file is damaged"
        }
    }
}

/// A quantized tensor without its scales, or a scale without its weight.
package struct UnpairedTensor: Sendable, Equatable, CustomStringConvertible {
    package var name: String
    package var file: String
    package var summary: String
    /// Whether this is a scale (or other companion) that belongs to no weight.
    package var isCompanion: Bool
    /// Whether it holds codes for which there is no reader, whatever lies beside it.
    package var isUnknown = false
    /// Tensors of the checkpoint that look like the missing partner.
    package var lookalikes: [String]

    private var type: Substring { summary.prefix { $0 != " " } }

    package var description: String {
        let hint =
            lookalikes.isEmpty
            ? "a shard may be missing, or a tool dropped it; without it the numbers are meaningless"
            : "the checkpoint has \(lookalikes.joined(separator: ", ")), which may be it under another name; rename it to what quantization_config promises"
        if isUnknown {
            let beside = lookalikes.isEmpty ? "" : " (beside it \(lookalikes.joined(separator: ", ")))"
            return "\(file): tensor \(name) (\(summary)) holds \(type) codes that no layout here reads\(beside); --to keep carries them as they are"
        }
        return isCompanion
            ? "\(file): scale \(name) (\(summary)) belongs to no quantized weight; \(hint)"
            : "\(file): tensor \(name) (\(summary)) is quantized but no scale for it is found in any shard; \(hint)"
    }
}

/// Something odd that does not stop a conversion.
package struct Finding: Sendable, Equatable, CustomStringConvertible {
    package var subject: String
    package var text: String

    package init(_ subject: String, _ text: String) {
        self.subject = subject
        self.text = text
    }

    package var description: String { subject.isEmpty ? text : "\(subject): \(text)" }
}
