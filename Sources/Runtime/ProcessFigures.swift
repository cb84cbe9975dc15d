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

    package static var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

    /// Seconds of a clock that only goes forward.
    package static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
