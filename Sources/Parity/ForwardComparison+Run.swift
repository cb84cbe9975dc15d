import CKernels
import Checkpoints
import Conversion
import Foundation
import ReferenceModels

extension ForwardComparison {
    /// A margin in the reference's logits below which preferring another token says little: BF16 rounding alone moves logits so far.
    static let defaultMargin: Float = 0.05
    /// Runs both passes in lockstep, layer by layer; nothing is stored but the two residual streams.
    public init(
        _ reference: ForwardPass, _ candidate: ForwardPass, stop: StopToken = StopToken(),
        progress: (_ layer: Int, _ layers: Int) -> Void = { _, _ in }
    ) throws {
        guard reference.configuration.layers == candidate.configuration.layers,
            reference.configuration.hiddenSize == candidate.configuration.hiddenSize,
            reference.configuration.vocabulary == candidate.configuration.vocabulary, reference.tokens == candidate.tokens
        else { throw ParityFailure.differentModels }
        while !reference.isDone {
            if stop.isStopped { throw ReferenceFailure.interrupted }
            progress(reference.layer, reference.configuration.layers)
            let layer = reference.layer
            let routings = (try reference.step(), try candidate.step())
            layers.append(Self.compare(layer, reference, candidate, routings))
        }
        try compareLogits(reference, candidate, stop)
    }

    private static func compare(_ layer: Int, _ a: ForwardPass, _ b: ForwardPass, _ routings: (Routing?, Routing?)) -> Layer {
        var sums = ck_error_sums()
        for row in 0..<a.hidden.rows { ck_f32_error(a.hidden[row], b.hidden[row], a.hidden.columns, &sums) }
        let norms = (sums.signal * sums.candidate).squareRoot()
        var result = Layer(
            layer: layer, sqnr: sums.noise == 0 && sums.different == 0 ? .infinity : 10 * log10(sums.signal / sums.noise),
            cosine: sums.different == 0 ? 1 : norms == 0 ? 0 : sums.product / norms)
        if let left = routings.0, let right = routings.1, let router = a.configuration.router {
            result.compare(left, right, experts: router.experts, groups: router.groupScore == .none ? 1 : router.groups)
        }
        return result
    }

    private mutating func compareLogits(_ reference: ForwardPass, _ candidate: ForwardPass, _ stop: StopToken) throws {
        var divergences: [Double] = []
        var differences: [Double] = []
        var sums = (reference: 0.0, candidate: 0.0)
        var agreed = (top1: 0, top5: 0)
        let tokens = reference.tokens
        let last = Set(tokens.ranges.map { $0.upperBound - 1 })
        for start in stride(from: 0, to: tokens.count, by: reference.logitsChunk) {
            if stop.isStopped { throw ReferenceFailure.interrupted }
            let rows = start..<min(start + reference.logitsChunk, tokens.count)
            let (left, right) = (try reference.logits(rows), try candidate.logits(rows))
            for (row, position) in rows.enumerated() {
                let (a, b) = (LogProbabilities(left[row], left.columns), LogProbabilities(right[row], right.columns))
                divergences.append(a.divergence(to: b))
                let preferred = a.ranked(5)
                let other = b.ranked(5)
                if preferred[0] == other[0] {
                    agreed.top1 += 1
                } else if left[row][preferred[0]] - left[row][other[0]] > Self.defaultMargin {
                    clearDisagreements += 1
                } else {
                    nearTies += 1
                }
                agreed.top5 += Set(preferred).intersection(other).count
                if !last.contains(position) {
                    let target = tokens.all[position + 1]
                    sums.reference -= a[target]
                    sums.candidate -= b[target]
                    differences.append(a[target] - b[target])
                }
            }
        }
        positions = divergences.count
        kld = Distribution(divergences)
        top1 = Double(agreed.top1) / Double(max(1, positions))
        top5 = Double(agreed.top5) / Double(max(1, positions * min(5, reference.configuration.vocabulary)))
        scoredTokens = differences.count
        guard scoredTokens > 0 else { return }
        let count = Double(scoredTokens)
        referencePerplexity = exp(sums.reference / count)
        candidatePerplexity = exp(sums.candidate / count)
        logPerplexityDifference = differences.reduce(0, +) / count
        let variance = differences.reduce(0) { $0 + ($1 - logPerplexityDifference) * ($1 - logPerplexityDifference) } / max(1, count - 1)
        logPerplexityError = (variance / count).squareRoot()
    }
}

extension ForwardComparison.Layer {
    fileprivate mutating func compare(_ a: Routing, _ b: Routing, experts: Int, groups: Int) {
        var reached = Set<Int>()
        var shared = 0
        var chosen = 0
        var shift = 0.0
        let groupSize = experts / groups
        for token in a.experts.indices {
            let (left, right) = (Set(a.experts[token]), Set(b.experts[token]))
            reached.formUnion(left)
            chosen += left.count
            shared += left.intersection(right).count
            flippedExperts += left.subtracting(right).count
            if Set(left.map { $0 / groupSize }) != Set(right.map { $0 / groupSize }) { flippedGroups += 1 }
            let leftWeights = Dictionary(uniqueKeysWithValues: zip(a.experts[token], a.weights[token]))
            let rightWeights = Dictionary(uniqueKeysWithValues: zip(b.experts[token], b.weights[token]))
            for expert in left.union(right) { shift += Double(abs((leftWeights[expert] ?? 0) - (rightWeights[expert] ?? 0))) }
        }
        expertAgreement = chosen == 0 ? 1 : Double(shared) / Double(chosen)
        weightShift = chosen == 0 ? 0 : shift / Double(chosen)
        unreachedExperts = experts - reached.count
    }
}

/// The log-softmax of one row of logits, in F64.
package struct LogProbabilities {
    private let logits: UnsafeBufferPointer<Float>
    private let logSum: Double

    /// `logits` must outlive the value.
    package init(_ logits: UnsafePointer<Float>, _ count: Int) {
        self.logits = UnsafeBufferPointer(start: logits, count: count)
        let largest = Double(self.logits.max() ?? 0)
        var sum = 0.0
        for logit in self.logits { sum += exp(Double(logit) - largest) }
        logSum = largest + log(sum)
    }

    package subscript(token: Int) -> Double { Double(logits[token]) - logSum }

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
}
