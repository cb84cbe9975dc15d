import Foundation

/// HTTP with patience: answers that pass are asked for again, after the time that the server names or a growing one.
///
/// Redirects are never followed here: whoever asks knows which host may see a token.
package final class Transport: Sendable {
    package static let shared = Transport(.process)

    /// Attempts at one exchange; with waits of up to 8 s between them.
    static let attempts = 8
    /// A server that wants a longer wait than this is given up.
    static let longestWait = 900.0

    private let sender: HTTPSender

    package init(_ environment: RemoteEnvironment) { sender = HTTPSender(environment) }

    /// Asks until there is an answer that stays.
    /// - Parameter flaw: what is wrong with an answer that another attempt may mend.
    package func ask(_ exchange: Exchange, flaw: (Answer) -> String? = { _ in nil }) throws -> Answer {
        var reason = ""
        for attempt in 0..<Self.attempts {
            var wait: Double?
            do {
                let answer = try sender.send(exchange)
                if !answer.isPassing {
                    guard let found = flaw(answer) else { return answer }
                    reason = found
                } else {
                    reason = "the server answered \(answer.status)\(answer.requestNumber)"
                    wait = answer.wait()
                }
            } catch HTTPSender.Failure.lasting(let text) {
                throw RemoteFailure.address(exchange.name, reason: "this cannot be asked for (\(text))")
            } catch HTTPSender.Failure.passing(let text) {
                reason = text
            }
            if attempt + 1 < Self.attempts { try pause(wait ?? Self.growing(attempt), exchange, reason) }
        }
        throw RemoteFailure.unreachable(exchange.name, reason: "\(reason), \(Self.attempts) times")
    }

    /// Half a second and twice as much each time up to 8, with chance in it so that many parts do not ask at once.
    private static func growing(_ attempt: Int) -> Double { min(8, 0.5 * pow(2, Double(attempt))) * Double.random(in: 0.5...1) }

    private func pause(_ seconds: Double, _ exchange: Exchange, _ reason: String) throws {
        guard seconds <= Self.longestWait else {
            throw RemoteFailure.unreachable(exchange.name, reason: "\(reason) and wants to be left alone for \(Int(min(seconds, 1e9))) s")
        }
        Thread.sleep(forTimeInterval: seconds)
    }
}
