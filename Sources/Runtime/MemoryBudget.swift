import Synchronization

/// Counts the working memory of the process: every buffer that grows with a weight, a sequence or a model is taken from here.
///
/// Operations plan their sizes to fit `--memory`; this is what holds them to it. A buffer that would go beyond the limit is refused with a
/// sentence, and so is one that the system does not give: neither ends in a signal.
package final class MemoryBudget: Sendable {
    /// The budget that working buffers are taken from.
    package static let process = MemoryBudget()

    /// What a process takes beside the buffers that its operations plan: decoded chunks, small scales, input and output of system calls.
    package static let allowance = 96 << 20

    package init() {}

    private let used = Atomic<Int>(0)
    private let highest = Atomic<Int>(0)
    private let limit = Atomic<Int>(.max)

    /// Bytes in use now.
    package var inUse: Int { used.load(ordering: .relaxed) }

    /// The most bytes that were in use at once.
    package var peak: Int { highest.load(ordering: .relaxed) }

    /// Sets the budget of the operations that follow, in bytes; ``allowance`` is added.
    package func restrict(to bytes: Int) { limit.store(bytes > .max - Self.allowance ? .max : bytes + Self.allowance, ordering: .relaxed) }

    /// Takes bytes from the budget, to be given back with ``give(_:)``.
    /// - Throws: ``OutOfMemory`` if it is spent.
    package func take(_ bytes: Int) throws(OutOfMemory) {
        let total = used.add(bytes, ordering: .relaxed).newValue
        guard total <= limit.load(ordering: .relaxed) else {
            give(bytes)
            throw OutOfMemory(byteCount: bytes, budget: limit.load(ordering: .relaxed) - Self.allowance)
        }
        var known = highest.load(ordering: .relaxed)
        while total > known {
            let (exchanged, original) = highest.compareExchange(expected: known, desired: total, ordering: .relaxed)
            if exchanged { break }
            known = original
        }
    }

    package func give(_ bytes: Int) { used.subtract(bytes, ordering: .relaxed) }
}

/// Bytes of the budget that something else than a buffer takes, such as an array that is known to grow; given back when it goes.
package final class MemoryReservation: Sendable {
    private let bytes: Int

    package init(_ bytes: Int) throws(OutOfMemory) {
        try MemoryBudget.process.take(bytes)
        self.bytes = bytes
    }

    deinit { MemoryBudget.process.give(bytes) }
}
