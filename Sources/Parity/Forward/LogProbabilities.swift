import Foundation
import Tensors

/// The log-softmax of one row of logits, in F64. Minus infinity is a token that cannot come (a padded vocabulary); a row with a NaN or
/// plus infinity, or of minus infinities only, is no distribution.
package struct LogProbabilities {
    private let logits: UnsafeBufferPointer<Float>
    /// log sum exp(logit).
    package let logSum: Double

    /// `logits` must outlive the value.
    package init(_ logits: UnsafePointer<Float>, _ count: Int) {
        self.logits = UnsafeBufferPointer(start: logits, count: count)
        let largest = Double(Figures.largest(self.logits) ?? 0)
        var sum = 0.0
        for logit in self.logits { sum += exp(Double(logit) - largest) }
        logSum = largest + log(sum)
    }

    package var count: Int { logits.count }
    /// Whether the row is a distribution.
    package var isFinite: Bool { logSum.isFinite }
    package subscript(token: Int) -> Double { Double(logits[token]) - logSum }
    package func logit(_ token: Int) -> Float { logits[token] }

    /// KL(self || other) = sum p (log p - log q), with 0 log 0 = 0; rounding can make the sum of equal rows a hair below zero.
    /// Infinite where the other side excludes what may come here, NaN where a side is no distribution.
    package func divergence(to other: LogProbabilities) -> Double {
        guard isFinite, other.isFinite else { return .nan }
        var sum = 0.0
        for token in logits.indices where logits[token] != -.infinity {
            let p = self[token]
            sum += exp(p) * (p - other[token])
        }
        return Figures.larger(0, sum)
    }

    /// The `count` likeliest tokens, likeliest first; among equals the lowest number.
    package func ranked(_ count: Int) -> [Int] {
        var best: [Int] = []
        for token in logits.indices {
            if best.count == count, logits[token] <= logits[best[count - 1]] { continue }
            let place = best.firstIndex { logits[token] > logits[$0] } ?? best.count
            best.insert(token, at: place)
            if best.count > count { best.removeLast() }
        }
        return best
    }

    /// The `count` likeliest tokens, likeliest first, for larger counts than ``ranked(_:)``.
    func largest(_ count: Int) -> [Int] {
        Array(logits.indices.sorted { logits[$0] != logits[$1] ? logits[$0] > logits[$1] : $0 < $1 }.prefix(count))
    }

    /// The smallest log probability of all tokens but some.
    func smallest(besides tokens: Set<Int>) -> Double {
        var smallest = Float.infinity
        for token in logits.indices where logits[token] < smallest && !tokens.contains(token) { smallest = logits[token] }
        return Double(smallest) - logSum
    }
}
