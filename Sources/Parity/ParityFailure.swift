import Runtime
import Tensors

/// Why two checkpoints cannot be compared.
public enum ParityFailure: Failure, Equatable {
    /// Models of different sizes.
    case differentModels
    /// Logits of other tokens or another vocabulary.
    case differentTokens(path: String)
    /// Options that ask for a forward pass without tokens.
    case needsTokens([String])
    /// An option that needs weights, where there are only logits.
    case needsCheckpoint(option: String, path: String)
    /// Nothing would be judged.
    case needsBounds(path: String)
    /// A policy cannot be read.
    case policy(path: String, reason: String)

    /// The exit status.
    public var kind: FailureKind { .usage }

    /// The sentence.
    public var description: String {
        switch self {
        case .differentModels: "the two checkpoints are models of different sizes; only weights of one model can be compared by their forward pass"
        case .differentTokens(let path): "\(path) holds the forward pass of other tokens, or of a model with another vocabulary"
        case .needsTokens(let options): "\(options.joined(separator: ", ")) asks for a forward pass; give the tokens to run with --tokens FILE"
        case .needsCheckpoint(let option, let path): "\(option) needs weights, and \(path) holds the results of a forward pass only"
        case .needsBounds(let path):
            "\(path) holds no weights whose layouts would show what was done; give a bound (--max-kld, --min-top1, --max-perplexity-ratio, --policy) or --claim"
        case .policy(let path, let reason): "\(path): \(reason)"
        }
    }
}
