import Runtime
import Tensors

/// Why a text cannot be turned into tokens.
package enum TokenizerFailure: Failure, Equatable {
    case malformed(path: String, reason: String)
    /// A part of the tokenizer that is not byte-level BPE as DeepSeek ships it.
    case unsupported(path: String, part: String)
    case notText(path: String)

    package var kind: FailureKind {
        switch self {
        case .unsupported: .usage
        default: .badData
        }
    }

    package var description: String {
        switch self {
        case .malformed(let path, let reason): "\(path): \(reason)"
        case .unsupported(let path, let part): "\(path): \(part) is not known; give token numbers with --tokens instead"
        case .notText(let path): "\(path): the text is not UTF-8"
        }
    }
}
