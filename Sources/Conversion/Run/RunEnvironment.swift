import CKernels
import Synchronization
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// How a plan is carried out; none of it changes a byte of the output.
public struct RunOptions: Sendable {
    /// Upper bound on working memory, in bytes.
    public var memory = 2 << 30
    /// Worker threads; nil for one a processor.
    public var jobs: Int?
    public var overwrite = false
    public var resume = false
    /// Carry NaN and infinities of the source, and scales that are none, instead of refusing them.
    public var allowsNonFinite = false

    public init(memory: Int = 2 << 30, jobs: Int? = nil, overwrite: Bool = false, resume: Bool = false) {
        self.memory = memory
        self.jobs = jobs
        self.overwrite = overwrite
        self.resume = resume
    }
}

/// A request to stop, set from a signal handler or another thread. Workers look at it between tiles.
public final class StopToken: Sendable {
    private let flag = Atomic<Bool>(false)
    /// Events that are left before the token stops by itself.
    private let left: Atomic<Int>

    /// - Parameter events: stop by itself after so many lines of a run's journal: an interruption that is the same every time.
    public init(afterEvents events: Int = .max) { left = Atomic(events) }

    /// One event of the run that the token belongs to.
    func count() {
        if left.subtract(1, ordering: .relaxed).newValue <= 0 { stop() }
    }

    public func stop() { flag.store(true, ordering: .relaxed) }

    public var isStopped: Bool { flag.load(ordering: .relaxed) }
}

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

/// Figures of the process.
public enum ProcessFigures {
    /// The largest resident set so far, in bytes.
    public static var peakResidentBytes: Int {
        var usage = rusage()
        #if canImport(Glibc)
            getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
            return usage.ru_maxrss * 1024
        #else
            getrusage(RUSAGE_SELF, &usage)
            return usage.ru_maxrss
        #endif
    }

    /// Keeps freed memory in the process. A forward pass frees and takes large buffers all the time; giving each back to the
    /// system and faulting it in again costs a third of its time. For a program's own use, at its start.
    public static func keepFreedMemory() { ck_keep_freed_memory() }

    public static var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

    /// Seconds of a clock that only goes forward.
    public static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
