/// w * x / sqrt(mean(x^2) + eps), the mean summed in F64 (arXiv 1910.07467).
struct RMSNorm: Sendable {
    let weight: [Float]
    let epsilon: Double
    let precision: Precision

    /// One row; as many values as there are weights.
    func apply(_ x: UnsafePointer<Float>, to result: UnsafeMutablePointer<Float>) {
        // Four sums by index, joined in order: additions that do not wait for each other.
        var sums = (0.0, 0.0, 0.0, 0.0)
        let whole = weight.count & ~3
        for i in stride(from: 0, to: whole, by: 4) {
            sums.0 += Double(x[i]) * Double(x[i])
            sums.1 += Double(x[i + 1]) * Double(x[i + 1])
            sums.2 += Double(x[i + 2]) * Double(x[i + 2])
            sums.3 += Double(x[i + 3]) * Double(x[i + 3])
        }
        for i in whole..<weight.count { sums.0 += Double(x[i]) * Double(x[i]) }
        let sum = sums.0 + sums.1 + sums.2 + sums.3
        let factor = Float(1 / (sum / Double(weight.count) + epsilon).squareRoot())
        weight.withUnsafeBufferPointer { weight in
            // In BF16 the normalised value is rounded before the weight is applied.
            for i in 0..<weight.count { result[i] = weight[i] * precision.round(x[i] * factor) }
        }
        precision.round(result, weight.count)
    }
}
