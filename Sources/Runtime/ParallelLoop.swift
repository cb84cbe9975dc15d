import Foundation
import Synchronization

/// Runs independent items on threads of their own, each with its own working state.
package enum ParallelLoop {
    /// Calls `body` once for each index below `count`. The first error ends the loop and is thrown.
    package static func run<State>(
        count: Int, workers: Int, state: @escaping @Sendable () throws -> State, body: @escaping @Sendable (Int, State) throws -> Void
    ) throws {
        if workers <= 1 || count <= 1 {
            let state = try state()
            for index in 0..<count { try body(index, state) }
            return
        }
        let shared = Shared()
        let group = DispatchGroup()
        for _ in 0..<max(1, min(workers, count)) {
            group.enter()
            let thread = Thread {
                let own: State
                do { own = try state() } catch {
                    shared.failure.withLock { $0 = $0 ?? error }
                    group.leave()
                    return
                }
                while true {
                    let index = shared.next.add(1, ordering: .relaxed).oldValue
                    guard index < count, shared.failure.withLock({ $0 == nil }) else { break }
                    do { try body(index, own) } catch { shared.failure.withLock { $0 = $0 ?? error } }
                }
                group.leave()
            }
            thread.stackSize = 1 << 20
            thread.start()
        }
        group.wait()
        if let error = shared.failure.withLock({ $0 }) { throw error }
    }

    /// Calls `body` on this thread while `other` runs on one of its own. Both have ended when it returns; the body's error comes first.
    package static func run<Result>(beside other: @escaping @Sendable () throws -> Void, _ body: () throws -> Result) throws -> Result {
        let shared = Shared()
        let group = DispatchGroup()
        group.enter()
        let thread = Thread {
            do { try other() } catch { shared.failure.withLock { $0 = error } }
            group.leave()
        }
        thread.stackSize = 1 << 20
        thread.start()
        let result = Swift.Result { try body() }
        group.wait()
        let value = try result.get()
        if let error = shared.failure.withLock({ $0 }) { throw error }
        return value
    }

    private final class Shared: Sendable {
        let next = Atomic<Int>(0)
        let failure = Lock<(any Error)?>(nil)
    }
}
