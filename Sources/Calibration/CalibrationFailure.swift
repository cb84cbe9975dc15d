import Quantization
import Runtime
import Tensors

/// Why a calibration cannot go on.
package enum CalibrationFailure: Failure, Equatable {
    case notPositive(weight: String, column: Int)
    case overflows(weight: String, row: Int)
    case memory(needed: Int, budget: Int)
    case needsTokens(QuantizerName)
    case needsStatistics

    package var kind: FailureKind {
        switch self {
        case .notPositive, .overflows: .badData
        case .memory, .needsTokens, .needsStatistics: .usage
        }
    }

    package var description: String {
        switch self {
        case .notPositive(let weight, let column):
            "\(weight): the second moments of its inputs are not positive at column \(column) even with full damping; look for infinities in the tokens' activations with `recast forward`"
        case .overflows(let weight, let row):
            "\(weight): the errors of its output \(row) are too large to be counted; look for values of no sense in its inputs with `recast forward`"
        case .memory(let needed, let budget):
            "the second moments of the widest weight and its rows need \(needed >> 20) MiB, above --memory \(budget >> 20) MiB; give more memory or keep that weight as stored by a recipe"
        case .needsTokens(let quantizer):
            "the quantizer \(quantizer.rawValue) learns from the model's activations; give calibration text with --tokens"
        case .needsStatistics: "the quantizer imatrix needs --statistics of `recast calibrate`, or --tokens to make them"
        }
    }
}
