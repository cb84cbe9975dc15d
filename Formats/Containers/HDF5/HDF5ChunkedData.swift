import CHDF5Files
import CKernels
import CZlib
import Tensors

/// The elements of a chunked dataset in row-major order, decoded a chunk at a time, from any thread and without libhdf5.
struct HDF5ChunkedData: ByteSegment {
    let byteCount: Int
    private let path: String
    private let file: any SourceFile
    private let number: FileNumber
    private let width: Int
    private let swap: Int
    private let fill: [UInt8]
    private let filters: [HDF5Dataset.Filter]
    private let chunks: [HDF5Dataset.Chunk]
    /// Dimensions that chunks cover whole are joined with the one before.
    private let shape: [Int]
    private let chunk: [Int]
    private let chunkBytes: Int

    /// A key for decoded chunks that goes with the last copy of the value.
    private final class FileNumber: Sendable {
        let value = DecodedChunks.shared.newFile()
        deinit { DecodedChunks.shared.forget(file: value) }
    }

    init(
        _ dataset: HDF5Dataset, chunk: [Int], filters: [HDF5Dataset.Filter], chunks: [HDF5Dataset.Chunk], file: any SourceFile, size: Int,
        refuse: (String) -> ContainerFailure
    ) throws {
        let shape = dataset.shape
        guard !shape.isEmpty, chunk.count == shape.count, chunk.allSatisfy({ $0 > 0 }), let elements = Shape.count(chunk),
            elements <= HDF5Dataset.chunkLimit / dataset.element.size
        else { throw refuse("has chunks of \(chunk), more than can be decoded at once") }
        guard zip(shape, chunk).reduce(1, { $0 * ceilingDivide($1.0, $1.1) }) == chunks.count else {
            throw refuse("has \(chunks.count) chunks, not as many as its shape needs; the file is damaged")
        }
        for filter in filters where ![CH5_FILTER_ZSTD, CH5_FILTER_DEFLATE, CH5_FILTER_SHUFFLE, CH5_FILTER_FLETCHER32].contains(Int32(filter.id)) {
            throw refuse("is compressed by filter \(filter.id), which is not known here; rewrite the file with `h5repack -f GZIP=1`")
        }
        for chunk in chunks where chunk.offset >= 0 {
            guard chunk.offset <= size, chunk.byteCount <= size - chunk.offset else {
                throw refuse(
                    "has a chunk of \(chunk.byteCount) bytes at byte \(chunk.offset), which the file of \(size) bytes does not hold; it is truncated")
            }
        }
        var (joined, joinedChunk) = ([shape[shape.count - 1]], [chunk[shape.count - 1]])
        for dimension in shape.indices.dropLast().reversed() {
            if joined[0] == joinedChunk[0] {
                joined[0] *= shape[dimension]
                joinedChunk[0] *= chunk[dimension]
            } else {
                joined.insert(shape[dimension], at: 0)
                joinedChunk.insert(chunk[dimension], at: 0)
            }
        }
        self.shape = joined
        self.chunk = joinedChunk
        self.chunks = chunks
        self.filters = filters
        self.file = file
        path = dataset.path
        number = FileNumber()
        width = dataset.element.size
        swap = dataset.swapWidth
        fill = dataset.fill
        byteCount = shape.reduce(dataset.element.size, *)
        chunkBytes = elements * dataset.element.size
    }

    func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        let columns = shape[shape.count - 1], chunkColumns = chunk[chunk.count - 1]
        var at = range.lowerBound
        while at < range.upperBound {
            // From here to the end of the chunk's row, or of the request.
            let element = at / width
            let column = element % columns
            let left = min(chunkColumns - column % chunkColumns, columns - column) * width - at % width
            let count = min(left, range.upperBound - at)
            let (index, inside) = place(element)
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer[at - range.lowerBound..<at - range.lowerBound + count])
            if count == chunkBytes {
                try decode(index, into: target)
            } else {
                let whole = try DecodedChunks.shared.chunk(.init(file: number.value, chunk: index), count: chunkBytes) { try decode(index, into: $0) }
                let start = inside * width + at % width
                target.copyMemory(from: UnsafeRawBufferPointer(rebasing: whole.bytes[start..<start + count]))
                withExtendedLifetime(whole) {}
            }
            at += count
        }
    }

    /// Which chunk holds an element, and where in it.
    private func place(_ element: Int) -> (chunk: Int, inside: Int) {
        var rest = element
        var (index, inside, chunkStep, insideStep) = (0, 0, 1, 1)
        for dimension in shape.indices.reversed() {
            let coordinate = rest % shape[dimension]
            rest /= shape[dimension]
            index += coordinate / chunk[dimension] * chunkStep
            inside += coordinate % chunk[dimension] * insideStep
            chunkStep *= ceilingDivide(shape[dimension], chunk[dimension])
            insideStep *= chunk[dimension]
        }
        return (index, inside)
    }

    /// Reads a chunk and undoes its filters, the last first.
    private func decode(_ index: Int, into target: UnsafeMutableRawBufferPointer) throws {
        let stored = chunks[index]
        guard stored.offset >= 0 else {
            RepeatedBytes(pattern: fill, byteCount: target.count).read(0..<target.count, into: target)
            return
        }
        func damaged() -> ContainerFailure {
            ContainerFailure(file.path, "a chunk of dataset \(path) at byte \(stored.offset) is damaged; copy the file again")
        }
        var content = try AlignedBuffer(byteCount: stored.byteCount)
        var count = stored.byteCount
        guard try file.read(into: content.slice(0..<count), at: stored.offset) == count else { throw damaged() }
        for (position, filter) in filters.enumerated().reversed() where position >= 32 || stored.skippedFilters >> UInt32(position) & 1 == 0 {
            // What the filters before this one made of the chunk.
            let applied = (0..<position).count {
                filters[$0].id == CH5_FILTER_FLETCHER32 && ($0 >= 32 || stored.skippedFilters >> UInt32($0) & 1 == 0)
            }
            let size = chunkBytes + 4 * applied
            let input = content
            defer { withExtendedLifetime(input) {} }
            let source = UnsafeRawBufferPointer(input.slice(0..<count))
            switch Int32(filter.id) {
            case CH5_FILTER_FLETCHER32:
                guard count >= 4 else { throw damaged() }
                count -= 4
                continue
            case CH5_FILTER_SHUFFLE:
                let next = try AlignedBuffer(byteCount: count)
                let element = filter.values.first ?? width
                guard element > 0, element <= count else { throw damaged() }
                ck_unshuffle(
                    source.baseAddress?.assumingMemoryBound(to: UInt8.self), next.bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), count,
                    element)
                content = next
            case CH5_FILTER_DEFLATE:
                let next = try AlignedBuffer(byteCount: size)
                var length = UInt(size)
                guard
                    uncompress(
                        next.bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), &length, source.baseAddress?.assumingMemoryBound(to: UInt8.self),
                        UInt(count)) == Z_OK, length == size
                else { throw damaged() }
                (content, count) = (next, size)
            default:
                let next = try AlignedBuffer(byteCount: size)
                guard ZstdFrame.decompress(source, into: next.slice(0..<size)) else { throw damaged() }
                (content, count) = (next, size)
            }
        }
        guard count == target.count else { throw damaged() }
        withExtendedLifetime(content) { target.copyMemory(from: UnsafeRawBufferPointer(content.slice(0..<count))) }
        if swap > 1 { StridedView.swap(target, swap) }
    }
}
