import Synchronization

/// How far a run is.
public struct RunProgress: Sendable {
    /// Bytes written by now.
    public var bytesWritten: Int
    /// Bytes read back and compared by now.
    public var bytesAudited: Int
    /// Bytes of the output.
    public var totalBytes: Int
    /// Weights that were written and audited.
    public var weightsDone: Int
    /// Weights of the output.
    public var totalWeights: Int
    /// The file at hand.
    public var shard: String
}

/// Counters that workers add to.
final class RunCounters: Sendable {
    let bytesRead = Atomic<Int>(0)
    let bytesWritten = Atomic<Int>(0)
    let bytesAudited = Atomic<Int>(0)
    let weightsDone = Atomic<Int>(0)
    /// Weights of an earlier run that were found damaged and written again.
    let weightsMended = Atomic<Int>(0)
    let shard = Atomic<Int>(0)
}
