import Checkpoints
import Formats
import Tensors

/// What a conversion claims, and the bounds that the claim must keep where nothing else is said.
public enum ParityClaim: String, Sendable, CaseIterable {
    /// The same layouts: every value and every logit equal.
    case repack
    /// A quantized checkpoint made dense: every value is round(F32(code) x scale). Exactness is a matter of bits: a wrong RoPE
    /// permutation has been seen to show as a KLD of only 5e-6 (pytorch/torchtitan:scripts/checkpoint_conversion/README.md).
    case dequantize
    /// 8 bits a value: FP8 or int8.
    case eightBit = "8-bit"
    /// 4 bits a value: integers or FP4 in groups.
    case fourBit = "4-bit"
    /// No bounds.
    case none

    /// On the small model the figures behind these bounds are: fp8-block 31.4 dB in its worst weight and a mean KLD of 0.0008;
    /// int4-g128 17.6 dB, 0.0049, top-1 0.965; a scale off by 2 leaves 0 dB, off by 1/2 6 dB.
    public var bounds: ParityBounds {
        switch self {
        case .repack: ParityBounds(exact: true, maximumKLD: 0)
        case .dequantize: ParityBounds(exact: true, maximumKLD: 1e-4)
        case .eightBit: ParityBounds(minimumSQNR: 30, maximumKLD: 0.005)
        case .fourBit: ParityBounds(minimumSQNR: 12, maximumKLD: 0.03, minimumTop1: 0.95, maximumPerplexityRatio: 1.015)
        case .none: ParityBounds()
        }
    }

    /// What the layouts of the two sides show, the furthest step of any weight: nothing for fewer than 4 bits or for a
    /// change between dense types.
    public init(from reference: Checkpoint, to candidate: Checkpoint) {
        let others = Dictionary(candidate.weights.map { ($0.name, $0) }) { first, _ in first }
        var steps = Set<ParityClaim>()
        for weight in reference.weights {
            guard let other = others[weight.name], let left = weight.layout, let right = other.layout, other.count > 0 else { continue }
            steps.insert(Self.step(weight, left, other, right))
        }
        self = [.none, .fourBit, .eightBit, .dequantize, .repack].first { steps.contains($0) } ?? .none
    }

    private static func step(_ a: Weight, _ left: any WeightLayout, _ b: Weight, _ right: any WeightLayout) -> ParityClaim {
        if left.name == right.name, a.stored.map(\.type) == b.stored.map(\.type) { return .repack }
        if case .possible = Repacking.offer(from: left, to: right, shape: a.shape) { return .repack }
        // BF16 values, which all layouts have, fit in F32 and BF16, not in F16; F16 values fit in F32 only.
        if right.isDense { return right.name == "f32" || right.name == "bf16" && !left.isDense ? .dequantize : .none }
        let bits = Double(b.storedBytes * 8) / Double(b.count)
        return bits >= 7.5 ? .eightBit : bits >= 3.9 ? .fourBit : .none
    }
}
