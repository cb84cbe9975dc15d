import Runtime

/// A source over the network that cannot be read, or must not be believed.
package enum RemoteFailure: Failure, Equatable {
    /// The name of the source is none.
    case address(String, reason: String)
    /// It is not there, or not for who asks.
    case missing(String, reason: String)
    /// Nothing may be asked (`HF_HUB_OFFLINE`), and it is not on this machine.
    case offline(String)
    /// No answer after all attempts.
    case unreachable(String, reason: String)
    /// What was answered is no answer to what was asked.
    case answer(String, reason: String)
    /// The file is another one than when the run began.
    case changed(String, reason: String)
    /// The bytes are not those whose digest was published.
    case digest(String, published: String, found: String)

    package var kind: FailureKind {
        switch self {
        case .address: .usage
        case .missing, .offline: .noInput
        case .unreachable: .inputOutput
        case .answer, .changed, .digest: .badData
        }
    }

    package var description: String {
        switch self {
        case .address(let text, let reason): "\(text): \(reason)"
        case .missing(let path, let reason): "\(path): \(reason)"
        case .offline(let path): "\(path): HF_HUB_OFFLINE is set and the local cache does not hold it; download it first, or unset the variable"
        case .unreachable(let path, let reason): "\(path): \(reason); run the same command again to continue"
        case .answer(let path, let reason): "\(path): \(reason)"
        case .changed(let path, let reason): "\(path): it was replaced while it was read (\(reason)); name a commit, or begin again"
        case .digest(let path, let published, let found):
            "\(path): what was received has the SHA-256 \(found), published is \(published); what was made of it is not to be used, begin again"
        }
    }
}
