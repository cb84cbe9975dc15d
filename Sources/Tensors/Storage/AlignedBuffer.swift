import Runtime

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Working memory of one worker, aligned for vector loads and page-sized writes, uninitialized until written.
///
/// Invariant: the memory is owned by one thread at a time; slices handed out never outlive the buffer.
package final class AlignedBuffer: @unchecked Sendable {
    package let bytes: UnsafeMutableRawBufferPointer
    /// What was allocated: up to a page before `bytes`.
    private let allocation: UnsafeMutableRawPointer

    private static let alignment = 4096

    /// - Throws: ``OutOfMemory`` if the budget is spent or the system refuses.
    package init(byteCount: Int) throws(OutOfMemory) {
        let size = max(byteCount, 64)
        try MemoryBudget.process.take(size)
        // Aligned here: glibc's posix_memalign does not find the place that a buffer of the same size gave back, and the heap grows.
        guard let memory = malloc(size &+ (Self.alignment - 1)) else {
            MemoryBudget.process.give(size)
            throw OutOfMemory(byteCount: size)
        }
        allocation = memory
        bytes = UnsafeMutableRawBufferPointer(start: memory.alignedUp(toMultipleOf: Self.alignment), count: size)
    }

    deinit {
        free(allocation)
        MemoryBudget.process.give(bytes.count)
    }

    /// A part of the buffer. The range must lie inside it.
    package func slice(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
        precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "slice outside its buffer")
        return UnsafeMutableRawBufferPointer(rebasing: bytes[range])
    }
}

extension AlignedBuffer {
    /// Calls `body` with the buffer's memory as values of one type; the memory lives until it returns.
    package func withMemory<Scalar: BitwiseCopyable, Result, Failure: Error>(
        of type: Scalar.Type, _ body: (UnsafeMutablePointer<Scalar>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        // Allocated with at least 64 bytes, so there is a base address.
        return try body(bytes.assumingMemoryBound(to: type).baseAddress!)
    }

    /// The first `count` values of one type.
    package func array<Scalar: BitwiseCopyable>(of type: Scalar.Type, count: Int) -> [Scalar] {
        withMemory(of: type) { Array(UnsafeBufferPointer(start: $0, count: count)) }
    }

    /// Copies runs of bytes, one after another, to `target`.
    package func copy(_ runs: ByteRuns, to target: UnsafeMutableRawBufferPointer) {
        var start = 0
        for run in runs.ranges where !run.isEmpty {
            UnsafeMutableRawBufferPointer(rebasing: target[start..<start + run.count]).copyMemory(from: UnsafeRawBufferPointer(slice(run)))
            start += run.count
        }
    }
}
