import CHDF5Files
import Tensors

/// A dataset as its file describes it; nothing is checked yet.
struct HDF5Dataset {
    struct Element {
        /// `CH5_INTEGER` and so on.
        var kind: Int
        var isSigned: Bool
        var size: Int
        var isBigEndian: Bool
        var exponentBits: Int
        var mantissaBits: Int
        /// The attribute `safetensors_dtype`, which names types that HDF5 does not have.
        var dtype = ""
        /// The attribute `safetensors_shape`, where elements are smaller than a byte.
        var trueShape: [Int]?
    }

    struct Filter: Sendable, Equatable {
        var id: Int
        var values: [Int]
    }

    struct Chunk: Sendable {
        /// Negative if the chunk was never written.
        var offset: Int
        var byteCount: Int
        /// Bit i: filter i was not applied.
        var skippedFilters: UInt32
    }

    enum Storage {
        /// Never written: all elements have the fill value.
        case absent
        case contiguous(offset: Int, byteCount: Int)
        case compact([UInt8])
        case chunked(shape: [Int], filters: [Filter], chunks: [Chunk])
    }

    /// Inside the file, without the first slash.
    var path: String
    var element: Element
    var shape: [Int]
    var fill: [UInt8]
    var storage: Storage

    /// Elements are decoded by the chunk.
    static let chunkLimit = 256 << 20

    /// The tensor that the dataset holds, its bytes among those of `file` or behind them in `bytes`.
    func place(in file: any SourceFile, size: Int, _ bytes: inout SegmentedBytes.Builder) throws -> StoredTensor {
        func refuse(_ reason: String) -> ContainerFailure { ContainerFailure(file.path, "dataset \(path) \(reason)") }
        guard let stored = Shape.count(shape), stored <= Int.max / 8, let type = scalarType else {
            throw refuse("has elements that are no numbers of a tensor: \(element.dtype.isEmpty ? "\(element.size) bytes" : element.dtype) \(shape)")
        }
        let dimensions = element.trueShape ?? shape
        let byteCount = stored * element.size
        guard Shape.byteCount(dimensions, type) == byteCount else {
            throw refuse("is \(type.rawValue) \(dimensions) by its attributes, but holds \(byteCount) bytes")
        }
        var tensor = StoredTensor(
            name: path.split(separator: "/").joined(separator: "."), type: type, shape: dimensions, offset: 0, byteCount: byteCount)
        guard byteCount > 0 else { return tensor }
        var segment: (any ByteSegment)?
        switch storage {
        case .absent: segment = RepeatedBytes(pattern: fill, byteCount: byteCount)
        case .compact(let content):
            guard content.count == byteCount else { throw refuse("holds \(content.count) bytes where its shape needs \(byteCount)") }
            segment = RepeatedBytes(pattern: content, byteCount: byteCount)
        case .contiguous(let offset, let count):
            guard count == byteCount, offset <= size, byteCount <= size - offset else {
                throw refuse("should have \(byteCount) bytes at byte \(offset), which the file of \(size) bytes does not hold; it is truncated")
            }
            tensor.offset = offset
            if !swaps { return tensor }
            segment = StridedView(file: file, start: offset, shape: [byteCount / element.size], strides: [1], width: element.size, swap: swapWidth)
        case .chunked(let chunk, let filters, let chunks):
            segment = try HDF5ChunkedData(self, chunk: chunk, filters: filters, chunks: chunks, file: file, size: size) { refuse($0) }
        }
        if let segment { tensor.offset = bytes.add(segment) }
        return tensor
    }

    /// Whether bytes must change their order.
    var swaps: Bool { element.isBigEndian && element.size > 1 }
    var swapWidth: Int { swaps ? element.size : 1 }

    private var scalarType: ScalarType? {
        if !element.dtype.isEmpty {
            guard let type = ScalarType(rawValue: element.dtype), type.block == nil else { return nil }
            return type.bitWidth == 8 * element.size || element.trueShape != nil && element.size == 1 ? type : nil
        }
        switch UInt32(element.kind) {
        case CH5_BOOLEAN.rawValue: return .bool
        case CH5_INTEGER.rawValue:
            let unsigned: [Int: ScalarType] = [1: .u8, 2: .u16, 4: .u32, 8: .u64], signed: [Int: ScalarType] = [1: .i8, 2: .i16, 4: .i32, 8: .i64]
            return (element.isSigned ? signed : unsigned)[element.size]
        case CH5_FLOAT.rawValue:
            switch (element.size, element.exponentBits, element.mantissaBits) {
            case (1, 4, 3): return .f8E4M3
            case (1, 5, 2): return .f8E5M2
            case (2, 5, 10): return .f16
            case (2, 8, 7): return .bf16
            case (4, 8, 23): return .f32
            case (8, 11, 52): return .f64
            case (8, 8, 0): return .c64
            default: return nil
            }
        default: return nil
        }
    }
}

/// A few bytes over and over, or once.
struct RepeatedBytes: ByteSegment {
    var pattern: [UInt8]
    var byteCount: Int

    func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) {
        for (index, place) in range.enumerated() { buffer[index] = pattern.isEmpty ? 0 : pattern[place % pattern.count] }
    }
}
