import Architectures
import Checkpoints
import Formats
import Tensors

/// What a conversion claims, and the bounds that the claim must keep where nothing else is said.
package enum ParityClaim: String, Sendable, CaseIterable {
    /// The same layouts: every value and every logit equal.
    case repack
    /// A quantized checkpoint made dense: every value is round(F32(code) x scale). Exactness is a matter of bits: a wrong RoPE
    /// permutation has been seen to show as a KLD of only 5e-6 (pytorch/torchtitan:scripts/checkpoint_conversion/README.md).
    case dequantize
    /// One dense type to a narrower one: every value rounded once.
    case cast
    /// 8 bits a value: FP8 or int8.
    case eightBit = "8-bit"
    /// 4 bits a value: integers or FP4 in groups.
    case fourBit = "4-bit"
    /// 2 or 3 bits a value.
    case lowBit = "2-bit"
    /// No bounds.
    case none

    /// On the small model the figures behind these bounds are: fp8-block 31.4 dB in its worst weight and a mean KLD of 0.0008;
    /// int4-g128 17.6 dB, 0.0049, top-1 0.965; a scale off by 2 leaves 0 dB, off by 1/2 6 dB. Rounding to BF16 leaves 48 dB at least
    /// (half a unit of 8 bits), to F16 66 dB where nothing is subnormal. A weight of zeros has 0 dB: what is below it is worse than
    /// nothing.
    package var bounds: ParityBounds {
        switch self {
        case .repack: ParityBounds(exact: true, maximumKLD: 0)
        case .dequantize: ParityBounds(exact: true, maximumKLD: 1e-4)
        case .cast: ParityBounds(minimumSQNR: 40, maximumKLD: 0.005)
        case .eightBit: ParityBounds(minimumSQNR: 30, maximumKLD: 0.005)
        case .fourBit: ParityBounds(minimumSQNR: 12, maximumKLD: 0.03, minimumTop1: 0.95, maximumPerplexityRatio: 1.015)
        case .lowBit: ParityBounds(minimumSQNR: 0.5, maximumKLD: 1, minimumTop1: 0.5)
        case .none: ParityBounds()
        }
    }

    /// From the strictest to the loosest.
    private var looseness: Int { Self.allCases.firstIndex(of: self) ?? 0 }

    static func isStricter(_ a: ParityClaim, _ b: ParityClaim) -> Bool { a.looseness < b.looseness }
}

/// The claim of every weight: what its two layouts show, weight by weight, or one that is given for all.
///
/// One weight's step says nothing about another's: a norm that was copied must be equal beside experts that were quantized, and a
/// bias that was cast frees no other weight of its bounds.
package struct ParityClaims: Sendable, Equatable {
    /// The loosest claim that a twentieth of the values makes, whose bounds hold for what all weights do together: the forward pass. Fewer do not
    /// excuse the rest.
    package let loosest: ParityClaim
    private let steps: [String: ParityClaim]

    /// One claim for all weights.
    package init(_ claim: ParityClaim) {
        loosest = claim
        steps = [:]
    }

    /// What the layouts of the two sides show.
    package init(from reference: Checkpoint, to candidate: Checkpoint) {
        let others = Dictionary(candidate.weights.map { ($0.name, $0) }) { first, _ in first }
        var steps: [String: ParityClaim] = [:]
        // Types of which some weights are stored as they were: where one alone is narrower, that is no conversion but a loss.
        var kept = Set<String>()
        for weight in reference.weights {
            guard let other = others[weight.name], other.count > 0 else { continue }
            steps[weight.name] = Self.step(weight, other)
            if weight.layout?.isDense == true, weight.layoutName == other.layoutName { kept.insert(weight.layoutName) }
        }
        for weight in reference.weights where steps[weight.name] == .cast {
            if kept.contains(weight.layoutName) || ModelRoles.isSelectionBias(weight.name) { steps[weight.name] = .repack }
        }
        self.steps = steps
        loosest = Self.loosest(reference, steps)
    }

    private static func loosest(_ reference: Checkpoint, _ steps: [String: ParityClaim]) -> ParityClaim {
        var values: [ParityClaim: Int] = [:]
        for weight in reference.weights { if let step = steps[weight.name] { values[step, default: 0] += weight.count } }
        let all = values.values.reduce(0, +)
        var sum = 0
        for claim in values.keys.sorted(by: { ParityClaim.isStricter($1, $0) }) {
            sum += values[claim] ?? 0
            if sum * 20 >= all { return claim }
        }
        return .repack
    }

    /// The claim of a weight by its name.
    package subscript(name: String) -> ParityClaim { steps[name] ?? (steps.isEmpty ? loosest : .repack) }

    private static func step(_ a: Weight, _ b: Weight) -> ParityClaim {
        // Bytes that are no numbers to us are carried or they are not.
        guard let left = a.layout, let right = b.layout else { return .repack }
        if left.name == right.name, a.stored.map(\.type) == b.stored.map(\.type) { return .repack }
        if case .possible = LayoutRegistry.repacking(from: left, to: right, shape: a.shape) { return .repack }
        if right.isDense { return Self.dense(left, right) }
        let bits = Double(b.storedBytes) * 8 / Double(b.count)
        return bits >= 7.5 ? .eightBit : bits >= 3.9 ? .fourBit : .lowBit
    }

    /// BF16 values, which all layouts have, fit in F32 and BF16, not in F16; F16 and BF16 values fit in F32.
    private static func dense(_ left: any WeightLayout, _ right: any WeightLayout) -> ParityClaim {
        right.name == "f32" && left.name != "f64" || right.name == "bf16" && !left.isDense || right.name == "f64" ? .dequantize : .cast
    }
}
