import Tensors

/// One stored tensor of a weight: `weight`, `weight_scale_inv`, `weight_packed`, ...
package struct WeightPart: Sendable, Equatable {
    /// How the rows of the stored tensor follow the rows of the weight.
    package enum Rows: Sendable, Equatable {
        /// Stored row r belongs to the weight's rows r * n ..< (r + 1) * n.
        case every(Int)
        /// Rows are packed into 32-bit words, this many bits each; stored row w holds bits 32 * w ..< 32 * (w + 1).
        case packed(bits: Int)
        /// The weight's rows follow each other along the last dimension, this many bits each: a tile is a stretch of every stored
        /// row. Where codes are packed into words, tiles are cut between words.
        case along(bits: Int)
        /// The part belongs to the weight as a whole (`weight_shape`, a global scale).
        case whole
    }

    /// The last component of the tensor's name.
    package var leaf: String
    package var type: ScalarType
    package var shape: [Int]
    package var rows: Rows

    package init(_ leaf: String, _ type: ScalarType, _ shape: [Int], rows: Rows = .every(1)) {
        self.leaf = leaf
        self.type = type
        self.shape = shape
        self.rows = rows
    }

    package var byteCount: Int { Shape.byteCount(shape, type) ?? 0 }

    /// Whether the weight's rows run along the stored rows, so that a tile is a piece of every one of them.
    package var isAlongRows: Bool { if case .along = rows { true } else { false } }

    /// Whether the bytes of tiles follow each other in the file, this tile's among them; a part of the whole weight comes once.
    package func isInRowOrder(_ tile: Range<Int>) -> Bool { !isAlongRows && (rows != .whole || tile.lowerBound == 0) }

    /// Where the part of some rows of the weight lies inside the stored tensor. `tile` is cut at the layout's row alignment.
    package func runs(of tile: Range<Int>, in shape: MatrixShape) -> ByteRuns {
        /// Stored rows that cover the first `count` rows of the weight.
        func stored(_ count: Int) -> Int {
            switch rows {
            case .every(let step): ceilingDivide(count, step)
            case .packed(let bits): ceilingDivide(count * bits, 32)
            case .along, .whole: 0
            }
        }
        if rows == .whole { return ByteRuns(0..<byteCount) }
        guard shape.rows > 0 else { return ByteRuns(0..<0) }
        if let stretch = stretch(of: tile, in: shape) {
            return ByteRuns(start: stretch.range.lowerBound, length: stretch.range.count, stride: stretch.stride, count: stretch.count)
        }
        let rowBytes = byteCount / stored(shape.rows)
        return ByteRuns(stored(tile.lowerBound) * rowBytes..<stored(tile.upperBound) * rowBytes)
    }

    /// Which bytes of each of `count` stored rows, `stride` bytes apart, belong to some rows of the weight; nil where these do not run along them.
    package func stretch(of tile: Range<Int>, in shape: MatrixShape) -> (range: Range<Int>, stride: Int, count: Int)? {
        guard case .along(let bits) = rows else { return nil }
        let stride = ceilingDivide(shape.rows * bits, 8)
        let start = tile.lowerBound * bits / 8
        let end = tile.upperBound == shape.rows ? stride : tile.upperBound * bits / 8
        return (start..<end, stride, stride == 0 ? 0 : byteCount / stride)
    }
}

/// How one logical weight is encoded in stored tensors. Layouts know numbers; they do not know files.
///
/// The values of a weight pass between layouts as BF16, the type that peers publish and quantize from: converting A to C
/// gives the same bytes as converting A to BF16 and that to C. All functions work on a tile, a run of whole rows cut at
/// multiples of ``rowAlignment``, and give the same bytes however a weight is cut.
package protocol WeightLayout: Sendable {
    /// The name on the command line where there is one, otherwise a description ("int3 group 64").
    var name: String { get }

    /// Whether decoding yields exactly the stored values, without scales.
    var isDense: Bool { get }

    /// Tiles begin at multiples of this many rows.
    var rowAlignment: Int { get }

    /// Tiles of fewer rows are slow: each stored row is then touched for a few bytes only.
    var preferredRows: Int { get }

    /// How many neighbouring columns share a scale, of a row of so many.
    func groupColumns(of columns: Int) -> Int

    /// Whether the codes are floats of eight bits.
    var holdsFP8: Bool { get }

    /// Whether a negative scale is nothing odd.
    var hasSignedScales: Bool { get }

    /// Whether bytes stored as `other` already are of this layout: the same parts, and no stricter rule about scales.
    func isStored(as other: any WeightLayout, shape: MatrixShape) -> Bool

    /// Whether only a description of the quantization tells its stored tensors from those of another layout.
    var needsDescription: Bool { get }

    /// Whether its readers look for the scale of a weight's inputs beside it.
    var takesInputScale: Bool { get }

    /// Whether its readers build the layers that predict further tokens unquantized (vLLM's and SGLang's of ModelOpt's NVFP4 do).
    var leavesPrediction: Bool { get }

    /// Whether it puts together what the readers of a dialect keep apart: such a weight is stored under their names, not under its own.
    var isJoinedFromParts: Bool { get }

    /// The stored tensors of a weight `[rows, columns]`, the values first.
    func parts(of shape: MatrixShape) -> [WeightPart]

    /// Why a weight of this shape cannot be stored so, or nil if it can.
    func obstacle(to shape: MatrixShape) -> String?

    /// The first of a part's stored scales or zero points that cannot be right; nil if all can. `bytes` are a piece of the part, cut anywhere
    /// between values and at whole words.
    func fault(in part: WeightPart, _ bytes: UnsafeRawBufferPointer) -> StoredFault?

    /// Writes the BF16 values of a tile, row after row. `parts` are the tile's stored bytes in the order of ``parts(of:)``.
    func decode(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>)

    /// Chooses the codes (and scales) of a tile by round-to-nearest and stores them.
    func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault)
}

extension WeightLayout {
    package var isDense: Bool { false }
    package var rowAlignment: Int { 1 }
    package var preferredRows: Int { 1 }
    package func groupColumns(of columns: Int) -> Int { columns }
    package var holdsFP8: Bool { false }
    package var hasSignedScales: Bool { false }
    package var needsDescription: Bool { false }
    package var takesInputScale: Bool { false }
    package var leavesPrediction: Bool { false }
    package var isJoinedFromParts: Bool { false }
    package func isStored(as other: any WeightLayout, shape: MatrixShape) -> Bool {
        type(of: other) == Self.self && parts(of: shape) == other.parts(of: shape) && name == other.name
    }
    package func obstacle(to shape: MatrixShape) -> String? { nil }
    package func fault(in part: WeightPart, _ bytes: UnsafeRawBufferPointer) -> StoredFault? { defaultFault(in: part, bytes) }
}

/// Two matrices of one shape that are stored apart, seen as one whose rows alternate between them.
package protocol PairedLayout: WideLayout {
    /// The layout of the even rows (0) or the odd ones (1).
    func half(_ index: Int) -> any WeightLayout
    /// The parts of a half, among those of the whole.
    func places(of half: Int, in shape: MatrixShape) -> Range<Int>
}

/// A layout that must know the largest magnitude of a whole weight before it can encode any of it.
package protocol WholeRangeLayout: WeightLayout {
    /// This layout for weights whose largest magnitude is `amax`, as BF16 bits.
    func spanning(_ amax: UInt16) -> Self
    /// The tensor's scale among the stored parts: a single F32.
    var tensorScalePart: Int { get }
    /// Whether modules that engines fuse share their range as ModelOpt's exporter has it, otherwise as llm-compressor does.
    var sharesRangeAsModelOpt: Bool { get }
}

/// A value that the target layout cannot hold; the conversion names the weight.
package enum EncodingFault: Error, Equatable {
    /// A NaN or an infinity among the values to be quantized.
    case notFinite(row: Int)
    /// A magnitude beyond F16's 65504 for a layout that stores F16.
    case overflowsF16(row: Int)
    /// The layout is read but never written.
    case readOnly
}

extension UnsafeRawBufferPointer {
    /// Invariant: the planner aligns every part of a tile in its buffer to 64 bytes, so any scalar type may be bound here.
    @inline(__always)
    package func scalars<Scalar: BitwiseCopyable>(_ type: Scalar.Type) -> UnsafeBufferPointer<Scalar> { assumingMemoryBound(to: type) }
}

extension UnsafeMutableRawBufferPointer {
    @inline(__always)
    package func scalars<Scalar: BitwiseCopyable>(_ type: Scalar.Type) -> UnsafeMutableBufferPointer<Scalar> { assumingMemoryBound(to: type) }
}
