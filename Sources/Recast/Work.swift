import Foundation
import Runtime

/// Something that a long work tells while it goes on.
public enum WorkEvent<Progress: Sendable, Value: Sendable>: Sendable {
    /// How far it is.
    case progress(Progress)
    /// A sentence that a user should know, as `recast` prints it after "note:".
    case note(String)
    /// It is done. The last event.
    case finished(Value)
}

/// A long work: a sequence of events that ends with a result.
///
/// Nothing happens before the sequence is iterated. The work runs on threads of its own, not on Swift's cooperative pool. When the task that
/// iterates is cancelled, the iterator is given up, or ``stop()`` is called, the work stops at its next tile and the iteration throws what the work throws then: a
/// ``Failure`` of the kind ``FailureKind/interrupted``. Iterate it once.
///
/// ```swift
/// for try await event in conversion.run() {
///     if case .finished(let report) = event { print(report.sentence) }
/// }
/// ```
public struct Work<Progress: Sendable, Value: Sendable>: AsyncSequence, Sendable {
    public typealias Element = WorkEvent<Progress, Value>

    typealias Body = @Sendable (_ stop: StopToken, _ tell: @escaping @Sendable (Element) -> Void) throws -> Value

    private let token = StopToken()
    private let body: Body

    init(_ body: @escaping Body) { self.body = body }

    /// Asks the work to stop at its next tile.
    public func stop() { token.stop() }

    /// Starts the work.
    public func makeAsyncIterator() -> Iterator {
        let channel = Channel<Element>()
        let (body, token) = (body, token)
        let thread = Thread {
            do {
                let value = try body(token) { channel.send(.success($0)) }
                channel.send(.success(.finished(value)))
                channel.end()
            } catch {
                channel.send(.failure(error))
                channel.end()
            }
        }
        // Kernels keep tiles of scales on the stack.
        thread.stackSize = 8 << 20
        thread.start()
        return Iterator(channel: channel, interest: Interest(token))
    }

    /// The events of a work that was started.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let channel: Channel<Element>
        fileprivate let interest: Interest

        /// The next event; nil after ``WorkEvent/finished(_:)``.
        public mutating func next() async throws -> Element? {
            let (channel, token) = (channel, interest.token)
            return try await withTaskCancellationHandler {
                try await channel.next()
            } onCancel: {
                token.stop()
            }
        }
    }

    /// Iterates to the end.
    /// - Returns: the result; notes and progress are passed over.
    /// - Throws: what the work throws.
    public func value() async throws -> Value {
        for try await event in self {
            if case .finished(let value) = event { return value }
        }
        throw CancellationError()
    }
}

/// Lives as long as somebody waits for a work, which nobody wants to go on after that.
private final class Interest: Sendable {
    let token: StopToken

    init(_ token: StopToken) { self.token = token }

    deinit { token.stop() }
}

/// Hands events from the thread of a work to the task that waits for them, in order.
private final class Channel<Element: Sendable>: Sendable {
    private struct State {
        var events: [Result<Element, any Error>] = []
        var waiting: CheckedContinuation<Element?, any Error>?
        var isEnded = false
    }

    private let state = Lock(State())

    func send(_ event: Result<Element, any Error>) {
        let waiting = state.withLock { state -> CheckedContinuation<Element?, any Error>? in
            guard let waiting = state.waiting else {
                state.events.append(event)
                return nil
            }
            state.waiting = nil
            return waiting
        }
        waiting?.resume(with: event.map { $0 })
    }

    func end() {
        let waiting = state.withLock { state -> CheckedContinuation<Element?, any Error>? in
            state.isEnded = true
            defer { state.waiting = nil }
            return state.waiting
        }
        waiting?.resume(returning: nil)
    }

    func next() async throws -> Element? {
        try await withCheckedThrowingContinuation { continuation in
            let ready = state.withLock { state -> Result<Element?, any Error>? in
                if !state.events.isEmpty { return state.events.removeFirst().map { $0 } }
                if state.isEnded { return .success(nil) }
                state.waiting = continuation
                return nil
            }
            if let ready { continuation.resume(with: ready) }
        }
    }
}
