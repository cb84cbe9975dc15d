import CKernels

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Figures of the process.
package enum ProcessFigures {
    /// The largest resident set so far, in bytes.
    package static var peakResidentBytes: Int {
        let own = ck_peak_resident()
        if own > 0 { return Int(own) }
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
    package static func keepFreedMemory() { ck_keep_freed_memory() }

    /// Has all threads take memory from one place, so that what one freed serves the others. For a program's own use, before its first thread.
    package static func shareFreedMemory() { ck_share_freed_memory() }

    /// Processors that the process may use: fewer than the machine has where a scheduler or a container says so.
    package static let processorCount = Int(ck_processor_count())

    /// Files that the process may have open at once.
    package static var openFileLimit: Int {
        var limit = rlimit()
        #if canImport(Glibc)
            guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 0 }
        #else
            guard getrlimit(RLIMIT_NOFILE, &limit) == 0 else { return 0 }
        #endif
        return Int(clamping: limit.rlim_cur)
    }

    /// Bytes that the process' container grants it; nil for no such limit.
    package static var memoryLimit: Int? {
        let bytes = ck_memory_limit()
        return bytes > 0 ? Int(bytes) : nil
    }

    /// Seconds of a clock that only goes forward.
    package static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
