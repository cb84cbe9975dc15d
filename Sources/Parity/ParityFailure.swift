import Runtime
import Tensors

/// Why two checkpoints cannot be compared.
public enum ParityFailure: Failure, Equatable {
    case differentModels
    case differentTokens(path: String)
    case needsTokens([String])
    case needsCheckpoint(option: String, path: String)
    case needsBounds(path: String)
    case policy(path: String, reason: String)

    public var kind: FailureKind { .usage }

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
