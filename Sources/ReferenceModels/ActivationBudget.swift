import Architectures
import Tensors

/// How many tokens run at once, and how many of them are wide at once, so that activations stay inside `--memory`.
///
/// Each pass keeps the residual stream of its tokens; a step adds its normalised input and its output. What is many times wider
/// (queries, keys, values, the inside of the feed-forward networks) is held for a stretch of tokens only. Results do not depend
/// on either number: a token's values depend on its own sequence alone.
package struct ActivationBudget: Sendable, Equatable {
    /// Runs of sequences, one batch after another.
    package let batches: [Range<Int>]
    /// Tokens whose wide activations are held at once; a sequence is never cut.
    package let stretch: Int
    /// Attention heads that are computed side by side: each has scratch of its own that grows with the longest sequence.
    package let heads: Int

    /// A stretch longer than this gains nothing: its products are long enough for every worker.
    private static let longestStretch = 8192

    /// - Parameter passes: forward passes that run side by side, each with its own residual stream.
    ///   - workers: threads that share the work, each with scratch for a tile of a matrix.
    package init(_ configuration: ModelConfiguration, _ tokens: TokenBatch, passes: Int = 1, workers: Int = 1, memory whole: Int) throws {
        // Untrusted sizes: in F64, where nothing overflows.
        let head = Self.headBytes(configuration, length: tokens.ranges.map(\.count).max() ?? 0)
        heads = max(1, min(workers, configuration.heads, Int(min(1024, Double(whole) / 8 / max(1, head)))))
        let memory = Double(whole) - head * Double(heads) - Double(min(workers * Self.matrixScratch, whole / 8))
        let wide = 4 * Self.wideFloats(configuration)
        let longest = tokens.ranges.map(\.count).max() ?? 0
        // Which tokens a query sees: a bit each.
        let choice = configuration.indexer.map { longest > $0.keptTokens ? Double(ceilingDivide(longest, 64) * 8) : 0 } ?? 0
        let resident = 4 * Double(configuration.hiddenSize) * Double(passes + 2) + choice * Double(passes)
        let stretch = min(Double(Self.longestStretch), max(Double(longest), max(0, memory) / 3 / wide))
        self.stretch = max(longest, Int(stretch))
        let room = (memory - wide * Double(min(self.stretch, tokens.count))) / resident
        guard room >= Double(longest) else {
            let needed = wide * Double(longest) + resident * Double(longest)
            let all = needed + Double(whole) - memory
            throw ReferenceFailure.memory(needed: all < 0x1p60 ? Int(all) : 1 << 60, budget: whole)
        }
        var batches: [Range<Int>] = []
        var start = 0
        var count = 0
        for (number, range) in tokens.ranges.enumerated() {
            if count > 0, Double(count + range.count) > room {
                batches.append(start..<number)
                (start, count) = (number, 0)
            }
            count += range.count
        }
        self.batches = batches + [start..<tokens.ranges.count]
    }

    /// What a worker takes for a tile of a weight and its panels.
    private static let matrixScratch = 4 << 20

    /// Scratch of one attention head over a sequence: keys and values in panels, scores and packed rows of a block of tokens.
    private static func headBytes(_ c: ModelConfiguration, length: Int) -> Double {
        let head = Double(c.attention.headSize)
        return 4 * Double(length + 64) * (2 * head + Double(c.attention.valueSize + 64) + 2 * 16 + 16)
    }

    /// F32 values that a token takes in the widest part of a layer.
    private static func wideFloats(_ c: ModelConfiguration) -> Double {
        let (heads, hidden) = (Double(c.heads), Double(c.hiddenSize))
        let output = heads * Double(c.attention.valueSize)
        let attention: Double
        switch c.attention {
        case .latent(let latent):
            let query = heads * Double(latent.nopeSize + latent.ropeSize)
            let keyValue = heads * Double(latent.nopeSize + latent.valueSize)
            let indexer = c.indexer.map { Double($0.heads + 1) * Double($0.headSize) + Double($0.heads) } ?? 0
            attention =
                indexer + query + keyValue + output + Double(2 * latent.latentRank + latent.ropeSize + 2 * (latent.queryRank ?? 0)) + 2 * hidden
        case .grouped(let grouped):
            attention = heads * Double(grouped.headSize) + 2 * Double(grouped.keyHeads * grouped.headSize) + output + 2 * hidden
        }
        // Input and output of a network, its two inner products, and what is made of them where it takes no place of theirs. The input of a
        // product is packed beside it.
        return hidden
            + max(attention, 2 * hidden + (c.activation == .gated ? 2 : 3) * Double(max(c.intermediateSize ?? 4 * c.hiddenSize, c.expertSize ?? 0)))
    }
}
