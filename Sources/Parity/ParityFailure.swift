import Tensors

/// Why two checkpoints cannot be compared.
public enum ParityFailure: Failure, Equatable {
    case differentModels
    case needsTokens([String])

    public var kind: FailureKind { .usage }

    public var description: String {
        switch self {
        case .differentModels: "the two checkpoints are models of different sizes; only weights of one model can be compared by their forward pass"
        case .needsTokens(let options): "\(options.joined(separator: ", ")) asks for a forward pass; give the tokens to run with --tokens FILE"
        }
    }
}
