import Foundation

/// The log-softmax of one row of logits, in F64.
package struct LogProbabilities {
    private let logits: UnsafeBufferPointer<Float>
    /// log sum exp(logit).
    package let logSum: Double

    /// `logits` must outlive the value.
    package init(_ logits: UnsafePointer<Float>, _ count: Int) {
        self.logits = UnsafeBufferPointer(start: logits, count: count)
        let largest = Double(self.logits.max() ?? 0)
        var sum = 0.0
        for logit in self.logits { sum += exp(Double(logit) - largest) }
        logSum = largest + log(sum)
    }

    package var count: Int { logits.count }
    package subscript(token: Int) -> Double { Double(logits[token]) - logSum }
    package func logit(_ token: Int) -> Float { logits[token] }

    /// KL(self || other) = sum p (log p - log q); rounding can make the sum of equal rows a hair below zero.
    package func divergence(to other: LogProbabilities) -> Double {
        var sum = 0.0
        for token in logits.indices {
            let p = self[token]
            sum += exp(p) * (p - other[token])
        }
        return max(0, sum)
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
