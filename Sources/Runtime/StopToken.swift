import Synchronization

/// A request to stop, set from a signal handler or another thread. Workers look at it between tiles.
package final class StopToken: Sendable {
    private let flag = Atomic<Bool>(false)
    /// Events that are left before the token stops by itself.
    private let left: Atomic<Int>

    /// - Parameter events: stop by itself after so many lines of a run's journal: an interruption that is the same every time.
    package init(afterEvents events: Int = .max) { left = Atomic(events) }

    /// One event of the run that the token belongs to.
    package func count() {
        if left.subtract(1, ordering: .relaxed).newValue <= 0 { stop() }
    }

    package func stop() { flag.store(true, ordering: .relaxed) }

    package var isStopped: Bool { flag.load(ordering: .relaxed) }
}
