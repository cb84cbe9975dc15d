/// w * x / sqrt(mean(x^2) + eps), the mean summed in F64 (arXiv 1910.07467).
struct RMSNorm: Sendable {
    let weight: [Float]
    let epsilon: Double
    var precision = Precision.f32

    func apply(_ x: Activations, columns: Int? = nil) -> Activations {
        let count = columns ?? x.columns
        let result = Activations(rows: x.rows, columns: count)
        for row in 0..<x.rows {
            let (source, target) = (x[row], result[row])
            var sum = 0.0
            for i in 0..<count { sum += Double(source[i]) * Double(source[i]) }
            let factor = Float(1 / (sum / Double(count) + epsilon).squareRoot())
            // In BF16 the normalised value is rounded before the weight is applied.
            for i in 0..<count { target[i] = weight[i] * precision.round(source[i] * factor) }
            precision.round(target, count)
        }
        return result
    }
}
