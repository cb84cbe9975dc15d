import CKernels

/// R, upper triangular, with R R^T = H + damping: the Cholesky factor, counted from the last column, of the second moments H = sum of x x^T over
/// the inputs of a weight, in a form of which error feedback can ask what it needs.
///
/// GPTQ works with the upper Cholesky factor U of H^-1, which is R^-1. Its rounding of column i, after the errors of all columns before
/// it have been passed on, is the rounding of w_i + sum_(j < i) (w_j - q_j) R_ji / R_ii (Chee et al., arXiv 2307.13304, theorem 6),
/// so neither an inverse nor updated weights are needed.
package protocol FeedbackFactor: Sendable {
    /// Columns of the weight.
    var size: Int { get }
    /// The weight's column at each place.
    var order: [Int] { get }
    /// Places whose inputs were all zero: their weights do not matter.
    var dead: [Bool] { get }
    var workers: Int { get }

    /// R_ii.
    func diagonal(_ place: Int) -> Float
    /// Rounds columns, ``FeedbackRows/step`` of them after another, with the errors of all that were rounded before.
    func round(_ rows: FeedbackRows) throws
    /// The sum over rows of e^T (H + damping) e, for errors e of some rows of a weight, `[rows, size]`.
    func outputError(_ errors: [Float], rows: Int) throws -> Double
}

extension FeedbackFactor {
    /// How much an error at a place weighs when all later columns make up for it as well as they can: R_ii^2, by column of the weight.
    package var importance: [Float] {
        var result = [Float](repeating: 0, count: size)
        for place in 0..<size where !dead[place] {
            let value = diagonal(place)
            result[order[place]] = value * value
        }
        return result
    }
}

extension FeedbackFactor {
    /// R_ii^2 of some places, by which a miss counts; zero where a place is dead.
    func squares(_ places: Range<Int>) -> [Float] { places.map { dead[$0] ? 0 : diagonal($0) * diagonal($0) } }

    /// A block of 16 of the `rows` rows of `values`, `[rows, size]`, as target[place][row]: zero where a place is dead and where there is no row.
    func place(_ values: [Float], rows: Int, _ block: Int, _ target: UnsafeMutablePointer<Float>) {
        let (size, width, order, dead) = (size, Int(CK_PANEL), order, dead)
        let height = min(width, rows - block * width)
        values.withUnsafeBufferPointer { values in
            for place in 0..<size {
                let column = order[place], isDead = dead[place]
                for n in 0..<width { target[place * width + n] = n < height && !isDead ? values[(block * width + n) * size + column] : 0 }
            }
        }
    }
}

/// The damped moments of some inputs are no positive matrix.
package struct NotPositive: Error, Equatable {
    package var column: Int
}
