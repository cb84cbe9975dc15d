import Formats
import Tensors

/// AWQ: channels with large inputs are multiplied by a scale before their weights are rounded, so that they lose less, and what leads into them is
/// divided by it.
///
/// The scales are powers of two: multiplying and dividing by them is exact, and so is the folding. Which exponents: as in
/// mit-han-lab/llm-awq:awq/quantize/auto_scale.py scale = mean|x|^a, or with mean|w| as in AutoAWQ mean|x|^a / mean|w|^(1 - a), for a in 0, 0.05, ... 1;
/// the one with the least error of the outputs is taken, no scaling among them.
package struct ActivationScaling: Sendable {
    /// By which each column of the weights is multiplied.
    package var scales: [Float]

    /// A weight that is scaled, some of its rows standing for all.
    package struct Sample: Sendable {
        package var weights: WeightRows
        package var grid: IntegerGrid

        package init(weights: WeightRows, grid: IntegerGrid) {
            self.weights = weights
            self.grid = grid
        }
    }

    package init(scales: [Float]) { self.scales = scales }

    package static func none(_ columns: Int) -> ActivationScaling { ActivationScaling(scales: [Float](repeating: 1, count: columns)) }

    /// Finds the scales with which the samples' outputs err least.
    package init(_ samples: [Sample], moments: InputMoments, factor: any FeedbackFactor) throws {
        let columns = moments.squares.count
        let inputs = moments.magnitudes.map { $0 / Double(max(1, moments.count)) }
        var sizes = [Double](repeating: 0, count: columns)
        for sample in samples {
            for row in 0..<sample.weights.rows {
                for column in 0..<columns { sizes[column] += Double(abs(sample.weights.values[row * columns + column])) }
            }
        }
        var best = (error: Double.infinity, scales: [Float](repeating: 1, count: columns))
        for usesWeights in [false, true] {
            for step in 0...20 where !usesWeights || step > 0 {
                let share = Double(step) / 20
                let scales = Self.powers(inputs, sizes, share, usesWeights)
                var error = 0.0
                for sample in samples {
                    let restored = Self.quantized(sample.weights, on: sample.grid, scales: scales, meanSquares: moments.meanSquares)
                    let errors = zip(sample.weights.values, restored.values).map { $0 - $1 }
                    error += try factor.outputError(errors, rows: sample.weights.rows)
                }
                if error < best.error { best = (error, scales) }
            }
        }
        scales = best.scales
    }

    /// Powers of two near (x^a [/ w^(1 - a)]), centred so that the largest and the smallest are each other's reciprocals.
    private static func powers(_ inputs: [Double], _ weights: [Double], _ share: Double, _ usesWeights: Bool) -> [Float] {
        // Logarithms of which only the nearest whole number is taken; a hair's breadth between machines is what it is for a rounding error.
        let logs = zip(inputs, weights).map { input, weight -> Double in
            guard input > 0, weight > 0 else { return .nan }
            return share * exponent(input) - (usesWeights ? (1 - share) * exponent(weight) : 0)
        }
        let known = logs.filter { !$0.isNaN }
        guard let least = known.min(), let greatest = known.max() else { return logs.map { _ in 1 } }
        let centre = (least + greatest) / 2
        return logs.map { log in
            log.isNaN ? 1 : Float(sign: .plus, exponent: Int(min(max((log - centre).rounded(), -6), 6)), significand: 1)
        }
    }

    /// log2 by its power series in exact steps of F64: squarings of the significand give one bit each. The same on every machine.
    private static func exponent(_ value: Double) -> Double {
        var significand = value.significand
        var fraction = 0.0
        var bit = 0.5
        for _ in 0..<16 {
            significand *= significand
            if significand >= 2 {
                significand /= 2
                fraction += bit
            }
            bit /= 2
        }
        return Double(value.exponent) + fraction
    }

    /// The weights scaled, rounded, and divided by the scales again.
    private static func quantized(_ weights: WeightRows, on grid: IntegerGrid, scales: [Float], meanSquares: [Float]) -> WeightRows {
        let scaling = ActivationScaling(scales: scales)
        let scaled = scaling.scaled(weights)
        let chosen = ScaleSearch.search(scaled, on: grid, importance: scaling.importance(meanSquares))
        var restored = weights
        let size = grid.groupSize ?? max(1, weights.columns)
        let count = ceilingDivide(weights.columns, size)
        for row in 0..<weights.rows {
            for column in 0..<weights.columns {
                let group = chosen.groups[row * count + column / size]
                let value = group.scale * Float(chosen.codes[row * weights.columns + column]) + grid.bias(group)
                restored.values[row * weights.columns + column] = value / scales[column]
            }
        }
        return restored
    }

    package func scaled(_ weights: WeightRows) -> WeightRows {
        var result = weights
        for row in 0..<weights.rows {
            for column in 0..<weights.columns { result.values[row * weights.columns + column] *= scales[column] }
        }
        return result
    }

    /// How much the scaled columns count: their inputs are smaller by the scale.
    package func importance(_ meanSquares: [Float]) -> [Float] {
        let mean = meanSquares.reduce(0, +) / Float(max(1, meanSquares.count))
        return zip(meanSquares, scales).map { max($0, mean * 1e-4) / ($1 * $1) }
    }
}
