import Architectures
import CKernels
import Tensors

/// Which experts each token goes to, and with what weights.
package struct Routing: Sendable {
    /// [token][choice], ascending expert numbers.
    package var experts: [[Int]]
    /// The weights of the chosen experts, in the same order.
    package var weights: [[Float]]
    /// Tokens whose choice hung on a tie or less than a rounding error.
    package var nearTies = 0
}

/// The gate of a mixture of experts (DeepSeek-V3 technical report, arXiv 2412.19437, section 2.1.2).
struct ExpertRouter: Sendable {
    let configuration: ModelConfiguration.Router
    let bias: [Float]

    /// `logits` is [tokens, experts].
    func route(_ logits: Activations) -> Routing {
        var routing = Routing(experts: [], weights: [])
        for token in 0..<logits.rows { choose(logits[token], into: &routing) }
        return routing
    }

    private func choose(_ logits: UnsafeMutablePointer<Float>, into routing: inout Routing) {
        let c = configuration
        let probabilities = scores(logits)
        // The bias takes part in the choice only.
        var candidates = zip(probabilities, bias).map { $0 + $1 }
        if c.groupScore != .none {
            let size = c.experts / c.groups
            let groupScores = (0..<c.groups).map { group -> Float in
                let members = candidates[(group * size)..<((group + 1) * size)].sorted(by: Self.isHigher)
                return c.groupScore == .twoLargest ? members[0] + members[1] : members[0]
            }
            let kept = Set(Self.largest(c.keptGroups, of: groupScores))
            for group in 0..<c.groups where !kept.contains(group) {
                for expert in (group * size)..<((group + 1) * size) { candidates[expert] = -.infinity }
            }
        }
        let chosen = Self.largest(c.expertsPerToken, of: candidates)
        let margin = (candidates.indices.filter { !chosen.contains($0) }.map { candidates[$0] }.max() ?? -.infinity)
        if let last = chosen.map({ candidates[$0] }).min(), last - margin < 1e-6 { routing.nearTies += 1 }
        let experts = chosen.sorted()
        var weights = experts.map { probabilities[$0] }
        if c.scoring == .softmaxOfChosen {
            weights.withUnsafeMutableBufferPointer { ck_softmax(KernelLevel.active.rawValue, $0.baseAddress!, $0.count, 1, -.infinity, 0) }
        }
        if c.normalises {
            let sum = weights.reduce(0, +) + 1e-20
            weights = weights.map { $0 / sum }
        }
        routing.experts.append(experts)
        routing.weights.append(weights.map { $0 * c.scalingFactor })
    }

    private func scores(_ logits: UnsafeMutablePointer<Float>) -> [Float] {
        let count = configuration.experts
        var values = Array(UnsafeBufferPointer(start: logits, count: count))
        switch configuration.scoring {
        case .sigmoid:
            values = values.map { -$0 }
            ck_exp(KernelLevel.active.rawValue, &values, count)
            return values.map { 1 / (1 + $0) }
        case .softmaxOfChosen: return values
        case .softmax:
            values.withUnsafeMutableBufferPointer { ck_softmax(KernelLevel.active.rawValue, $0.baseAddress!, count, 1, -.infinity, 0) }
            return values
        }
    }

    /// NaN is above every number, as PyTorch's topk has it: an expert whose score is none is chosen, and its output shows it.
    private static func isHigher(_ a: Float, _ b: Float) -> Bool { a.isNaN ? !b.isNaN : a > b }

    /// The indices of the `count` largest values; among equals the lowest index first.
    static func largest(_ count: Int, of values: [Float]) -> [Int] {
        Array(values.indices.sorted { isHigher(values[$0], values[$1]) || !isHigher(values[$1], values[$0]) && $0 < $1 }.prefix(count))
    }
}
