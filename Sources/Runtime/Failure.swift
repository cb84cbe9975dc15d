/// What kind of failure an error is; the command line turns it into a sysexits code.
public enum FailureKind: Int32, Sendable {
    /// A bound of a comparison does not hold.
    case parity = 1
    /// What was asked for does not fit together.
    case usage = 64
    /// The source is damaged, contradicts itself, or holds what is not known here.
    case badData = 65
    /// There is no such input.
    case noInput = 66
    /// A bug.
    case internalError = 70
    /// The system refused something.
    case system = 71
    /// The output cannot be created.
    case cannotCreate = 73
    /// Reading or writing failed, or the disk is full.
    case inputOutput = 74
    /// Stopped; the same command goes on.
    case interrupted = 75
}

/// An error that says in one sentence what happened, where, and what to do.
public protocol Failure: Error, CustomStringConvertible {
    /// What kind of failure it is; the exit status of `recast`.
    var kind: FailureKind { get }
}
