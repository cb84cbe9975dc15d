import Runtime
import Tensors

/// Why a checkpoint cannot be run through the reference forward pass.
public enum ReferenceFailure: Failure, Equatable {
    /// A weight that config.json promises.
    case missingWeight(String)
    /// A weight that the model has no place for.
    case unknownWeight(String)
    /// A weight of another shape than config.json asks for.
    case shape(weight: String, found: [Int], expected: [Int])
    /// Integers where a weight should be.
    case notAWeight(String)
    /// Sequences that cannot be read.
    case tokens(path: String, reason: String)
    /// Logits of another model.
    case logits(path: String, tensor: String, width: Int, expected: Int)
    /// Positions whose logits are not finite.
    case notFinite(positions: Int, of: Int)
    /// A token beyond the vocabulary.
    case token(sequence: Int, position: Int, value: Int, vocabulary: Int)
    /// Bytes that the pass needs, above the budget.
    case memory(needed: Int, budget: Int)
    /// The pass would take so many batches.
    case batches(Int, budget: Int)
    /// A weight whose inputs have other columns.
    case activations(weight: String, columns: Int)
    /// An indexer whose scores cannot be compared.
    case indexer(layer: Int)
    /// More logits than a file holds.
    case tooManyLogits
    /// Stopped.
    case interrupted

    /// The exit status.
    public var kind: FailureKind {
        switch self {
        case .memory, .batches, .activations: .usage
        case .interrupted: .interrupted
        default: .badData
        }
    }

    /// The sentence.
    public var description: String {
        switch self {
        case .missingWeight(let name): "weight \(name) is missing; config.json promises it"
        case .unknownWeight(let name):
            "weight \(name) has no place in the model that config.json describes; what it would do to the forward pass is not known here"
        case .shape(let weight, let found, let expected): "weight \(weight) has the shape \(found), config.json asks for \(expected)"
        case .notAWeight(let name): "\(name) is stored as integers, not as a weight"
        case .tokens(let path, let reason): "\(path): \(reason); expected {\"sequences\": [[...], ...]} or input_ids I64 [n, t]"
        case .logits(let path, let tensor, let width, let expected):
            "\(path): \(tensor) has \(width) values a position, the model has \(expected); it is the forward pass of another model"
        case .notFinite(let positions, let all):
            "the logits of \(positions) of \(all) positions are NaN or infinite: the model is damaged, or its numbers overflow"
        case .token(let sequence, let position, let value, let vocabulary):
            "token \(value) at position \(position) of sequence \(sequence) is outside the vocabulary of \(vocabulary)"
        case .memory(let needed, let budget):
            "the activations of the longest sequence need \(needed >> 20) MiB, above --memory \(budget >> 20) MiB; give shorter sequences or more memory"
        case .batches(let count, let budget):
            "these tokens need \(count) batches within \(budget >> 20) MiB; a forward pass runs one"
        case .activations(let weight, let columns):
            "--precision fp8 quantizes activations by 128 channels, but \(weight) has blocks of \(columns) columns; use f32 or bf16"
        case .indexer(let layer):
            "the indexer of layer \(layer) gives scores that are NaN or infinite, so the tokens that a query sees cannot be chosen: the model is damaged, or its numbers overflow"
        case .tooManyLogits: "the file of logits would be larger than can be addressed; give fewer tokens"
        case .interrupted: "stopped on request; nothing was written"
        }
    }
}
