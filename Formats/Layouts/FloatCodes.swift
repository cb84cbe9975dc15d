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

/// E4M3 codes as F32.
enum E4M3 {
    static func decodeFloats(_ codes: UnsafePointer<UInt8>, count: Int, into target: UnsafeMutablePointer<Float>) {
        withBF16(count) { values, start, piece in
            withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS)) { table in
                // BF16 holds every code exactly.
                var one: Float = 1
                ck_e4m3_decode(KernelLevel.active.rawValue, codes + start, values, 1, piece, piece, &one, table.baseAddress)
            }
            ck_bf16_to_f32(values, target + start, piece)
        }
    }
}

/// Pairs of E2M1 codes with a scale for each group of values, as F32.
enum E2M1 {
    /// - Parameter negativeZero: whether the reference has one.
    static func decodeFloats(
        _ codes: UnsafePointer<UInt8>, groups: Int, size: Int, scales: UnsafePointer<Float>, negativeZero: Bool,
        into target: UnsafeMutablePointer<Float>
    ) {
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: size) { values in
            guard let values = values.baseAddress else { return }
            var one: Float = 1
            for group in 0..<groups {
                ck_e2m1_decode(KernelLevel.active.rawValue, codes + group * size / 2, 1, size, &one, negativeZero ? 1 : 0, values)
                ck_bf16_to_f32(values, target + group * size, size)
                ck_f32_scale(target + group * size, size, scales[group])
            }
        }
    }
}

/// Room for BF16 values in pieces that stay in the first-level cache.
private func withBF16(_ count: Int, _ body: (_ values: UnsafeMutablePointer<UInt16>, _ start: Int, _ count: Int) -> Void) {
    let step = 4096
    withUnsafeTemporaryAllocation(of: UInt16.self, capacity: step) { values in
        guard let values = values.baseAddress else { return }
        for start in stride(from: 0, to: count, by: step) { body(values, start, min(step, count - start)) }
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
    /// Nil for no array.
    func withPointer<Result>(_ body: (UnsafePointer<Float>?) -> Result) -> Result {
        guard let self else { return body(nil) }
        return self.withUnsafeBufferPointer { body($0.baseAddress) }
    }
}
