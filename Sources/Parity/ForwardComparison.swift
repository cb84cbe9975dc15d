/// How far a candidate's forward pass is from the reference's over the same tokens.
public struct ForwardComparison: Sendable {
    /// Mean, median, 99th percentile and maximum.
    public struct Distribution: Sendable, Equatable {
        public var mean = 0.0
        public var median = 0.0
        public var p99 = 0.0
        public var maximum = 0.0

        init(_ values: [Double]) {
            guard !values.isEmpty else { return }
            let sorted = values.sorted()
            mean = values.reduce(0, +) / Double(values.count)
            median = sorted[sorted.count / 2]
            p99 = sorted[min(sorted.count - 1, sorted.count * 99 / 100)]
            maximum = sorted[sorted.count - 1]
        }
    }

    /// The residual stream after one layer, and the choice of experts in it.
    public struct Layer: Sendable, Equatable {
        public var layer: Int
        /// 10 log10(sum r^2 / sum (r - c)^2).
        public var sqnr: Double
        public var cosine: Double
        /// Share of chosen experts that both sides chose; nil in dense layers.
        public var expertAgreement: Double?
        public var flippedExperts = 0
        /// Tokens for which another group of experts was used.
        public var flippedGroups = 0
        /// Mean absolute difference of the routing weights, experts that only one side chose counted with their whole weight.
        public var weightShift = 0.0
        /// Experts that no token of the reference reached.
        public var unreachedExperts = 0
    }

    public var positions = 0
    /// KL(reference || candidate) of the next-token distributions, in nats, from F32 logits.
    public var kld = Distribution([])
    public var top1 = 1.0
    public var top5 = 1.0
    /// Positions where the sides prefer different tokens although the reference prefers its own clearly, and where it hardly does.
    public var clearDisagreements = 0
    public var nearTies = 0
    public var scoredTokens = 0
    public var referencePerplexity = 0.0
    public var candidatePerplexity = 0.0
    /// Standard error of the mean difference of log probabilities, paired by token.
    public var logPerplexityDifference = 0.0
    public var logPerplexityError = 0.0
    public var layers: [Layer] = []

    /// The layer after which the sides are first clearly apart, compared with the layer before: where to look for a culprit.
    public var worstStep: Layer? {
        var previous = Double.infinity
        var worst: (drop: Double, layer: Layer)?
        for layer in layers {
            let drop = min(previous, 200) - min(layer.sqnr, 200)
            if drop > worst?.drop ?? 0 { worst = (drop, layer) }
            previous = layer.sqnr
        }
        return worst?.layer
    }
}
