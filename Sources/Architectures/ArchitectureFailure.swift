import Runtime

/// Why config.json does not describe a model whose arithmetic is known here.
package enum ArchitectureFailure: Failure, Equatable {
    case unknown(modelType: String)
    case missingField(String)
    case badField(String, reason: String)

    package var kind: FailureKind { if case .unknown = self { .usage } else { .badData } }

    package var description: String {
        switch self {
        case .unknown(let type):
            "config.json: the forward pass of \(type) is not known; weights can still be compared with `verify --weights-only`"
        case .missingField(let field): "config.json: \(field) is missing; the forward pass needs it"
        case .badField(let field, let reason): "config.json: \(field) \(reason)"
        }
    }
}
