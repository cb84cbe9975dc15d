import Formats
import Quantization

/// Which kind of way a weight goes from source to target, the most exact there is: the word in previews and reports.
public enum Road: String, Sendable, Equatable, CaseIterable {
    /// The stored bytes are copied.
    case passthrough
    /// The same codes and scales, or numbers, in another order or under other names.
    case repack
    /// Codes and scales to numbers, bit-identical with the format's reference implementation.
    case dequantize
    /// Numbers to codes and scales, bit-identical with the peer's encoder.
    case quantize
    /// One dense type to another, every value rounded once: a declared dtype change.
    case cast
    /// A norm's values divided by powers of two that the weights after it were multiplied by before they were quantized: exact.
    case fold
}

/// A weight's way into the output, with all that is needed to go it.
package enum Way: Sendable {
    /// The stored bytes are copied: those of some of the weight's stored tensors (nil: of all, the weight lies in one file), and of each
    /// the part that goes to one rank (nil: all of it).
    case copy(tensors: [Int]? = nil, split: TensorSplit? = nil)
    /// Codes and scales in another order or under other names, by the exact way that was proven.
    case repack(any Repacking)
    /// Numbers of the same type in another order.
    case rearrange
    case dequantize
    /// Codes and scales are chosen anew.
    /// - range: indices of the source's weights whose values share one range with this one's, for layouts that need the range beforehand.
    case quantize(QuantizerName, range: [Int])
    case cast
    case fold

    package var road: Road {
        switch self {
        case .copy: .passthrough
        case .repack, .rearrange: .repack
        case .dequantize: .dequantize
        case .quantize: .quantize
        case .cast: .cast
        case .fold: .fold
        }
    }
}
