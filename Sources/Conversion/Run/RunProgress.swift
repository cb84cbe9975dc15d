import Synchronization

/// How far a run is.
public struct RunProgress: Sendable {
    public var bytesWritten: Int
    public var bytesAudited: Int
    public var totalBytes: Int
    public var weightsDone: Int
    public var totalWeights: Int
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
