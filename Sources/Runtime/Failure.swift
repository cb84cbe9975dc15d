/// What kind of failure an error is; the command line turns it into a sysexits code.
public enum FailureKind: Int32, Sendable {
    case parity = 1
    case usage = 64
    case badData = 65
    case noInput = 66
    case internalError = 70
    case system = 71
    case cannotCreate = 73
    case inputOutput = 74
    case interrupted = 75
}

/// An error that says in one sentence what happened, where, and what to do.
public protocol Failure: Error, CustomStringConvertible {
    var kind: FailureKind { get }
}
