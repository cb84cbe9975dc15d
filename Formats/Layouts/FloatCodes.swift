import CKernels
import Tensors

/// A layout of floating codes (E4M3, E2M1), whose encoder takes for each block the scale of the peer, or looks for a better one.
package protocol FloatCodedLayout: WeightLayout {
    /// Encodes a tile; without `search` exactly as the peer does.
    func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, search: BlockScaleSearch?,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault)
}

extension FloatCodedLayout {
    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        try encode(values, rows: rows, shape: shape, search: nil, into: parts)
    }
}

/// Looks for the scale with which a block's decoded values have the least squared error.
///
/// The steps of floating codes double at every power of two, so where a block's values fall among them matters; and the largest value may err so that
/// the many err less.
package struct BlockScaleSearch: Sendable {
    /// How much the error of each column of the weight counts; nil: all alike.
    package var importance: [Float]?

    package init(importance: [Float]? = nil) { self.importance = importance }

    /// Part of a tile that shares a scale.
    struct Block {
        /// Invariant: `height` rows of `width` values, `stride` apart, are readable from here.
        var values: UnsafePointer<UInt16>
        var stride: Int
        var height = 1
        var width: Int
        var firstColumn: Int
    }

    /// The candidate of least error, of equals the first; nil if there is none.
    /// - Parameter decode: Encodes the block with a candidate and writes its values as a reader gets them, row after row.
    func best<Candidate>(
        of candidates: some Sequence<Candidate>, _ block: Block, decode: (Candidate, UnsafeMutablePointer<UInt16>) -> Void
    ) -> Candidate? {
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: block.height * block.width) { decoded in
            guard let values = decoded.baseAddress else { return nil }
            return importance.withPointer { importance in
                var best: (error: Double, candidate: Candidate)?
                for candidate in candidates {
                    decode(candidate, values)
                    let error = ck_squared_error(
                        KernelLevel.active.rawValue, block.values, block.stride, values, block.height, block.width,
                        importance.map { $0 + block.firstColumn })
                    if best.map({ error < $0.error }) ?? true { best = (error, candidate) }
                }
                return best?.candidate
            }
        }
    }

    /// Factors of a scale that puts the largest magnitude at E4M3's greatest: smaller codes, or a little beyond.
    static let e4m3Shares: [Float] = (0...16).map { 1 + Float($0) / 16 } + [0.94, 0.97]
}

extension [Float]? {
    fileprivate func withPointer<Result>(_ body: (UnsafePointer<Float>?) -> Result) -> Result {
        guard let self else { return body(nil) }
        return self.withUnsafeBufferPointer { body($0.baseAddress) }
    }
}
