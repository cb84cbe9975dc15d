import CHDF5Files
import CKernels
import CZlib
import Runtime
import Tensors

/// Writes an HDF5 file: a dataset for each tensor, in chunks of whole rows whose filters are applied here, side by side.
struct HDF5Writer {
    static let chunkSize = 1 << 20
    /// Smaller tensors are one contiguous piece.
    static let smallTensor = 4 << 10
    static let level: UInt32 = 1

    private let source: TensorFile
    private let options: PackingOptions

    init(_ source: TensorFile, _ options: PackingOptions) {
        self.source = source
        self.options = options
    }

    /// One worker's buffers: a chunk, its shuffled bytes, and the compressed ones.
    private final class Workspace: Sendable {
        /// For chunks of `size` bytes.
        static func byteCount(_ size: Int) -> Int { 2 * size + max(ZstdFrame.Compressor.bound(size), Int(compressBound(UInt(size)))) }

        /// Invariant: a workspace is used by one thread at a time; the writer looks at it when its worker is done.
        let memory: AlignedBuffer
        nonisolated(unsafe) var count = 0

        init(_ size: Int) throws { memory = try AlignedBuffer(byteCount: Self.byteCount(size)) }
    }

    func write(to path: String) throws {
        // The library does not say why; the system's last word often does.
        let failed = { FileFailure(.write, path, systemError: ch5_reason()) }
        if let missing = HDF5.missingLibrary() { throw ContainerFailure(path, missing) }
        let file = HDF5.library.withLock { _ in ch5_create(path) }
        guard file >= 0 else { throw FileFailure(.create, path, systemError: ch5_reason()) }
        do {
            for tensor in source.tensors {
                try options.checkpoint()
                try write(tensor, to: file, path, failed)
            }
            for attachment in options.attachments {
                try write(attachment.bytes, as: HDF5.attachmentGroup + "/" + attachment.name, to: file, failed)
            }
        } catch {
            _ = HDF5.library.withLock { _ in ch5_close(file) }
            throw error
        }
        guard HDF5.library.withLock({ _ in ch5_close(file) }) == 0 else { throw failed() }
        try PositionedFile.openForWriting(path).synchronize()
    }

    // MARK: Datasets

    private func write(_ bytes: [UInt8], as name: String, to file: Int64, _ failed: () -> FileFailure) throws {
        let dataset = create(file, name, CH5_U8, [bytes.count], chunk: nil, width: 1, dtype: nil, trueShape: nil)
        guard dataset >= 0 else { throw failed() }
        // The library writes small data only when it closes them.
        let (status, closing) = HDF5.library.withLock { _ in
            (bytes.isEmpty ? 0 : ch5_write_whole(dataset, bytes), ch5_close_dataset(dataset))
        }
        guard status == 0, closing == 0 else { throw failed() }
    }

    private func write(_ tensor: StoredTensor, to file: Int64, _ path: String, _ failed: () -> FileFailure) throws {
        guard let (type, width) = Self.element(tensor.type) else {
            throw ContainerFailure(path, "HDF5 has no type for \(tensor.name), which is \(tensor.type.rawValue)")
        }
        let isNative = !Self.needsName(tensor.type)
        let shape = tensor.type.bitWidth < 8 ? [tensor.byteCount] : tensor.shape
        let isChunked = tensor.byteCount >= Self.smallTensor && !shape.isEmpty && options.filter != .none
        let chunk = isChunked ? Self.chunk(shape, width) : nil
        let dataset = create(
            file, tensor.name.split(separator: ".").joined(separator: "/"), type, shape, chunk: chunk, width: width,
            dtype: isNative ? nil : tensor.type.rawValue, trueShape: shape == tensor.shape ? nil : tensor.shape)
        guard dataset >= 0 else { throw failed() }
        do {
            switch chunk {
            case _ where tensor.byteCount == 0: break
            case let chunk?: try writeChunks(tensor, shape, chunk, width, dataset, failed)
            case nil: try writeContiguous(tensor, dataset, path, failed)
            }
        } catch {
            _ = HDF5.library.withLock { _ in ch5_close_dataset(dataset) }
            throw error
        }
        guard HDF5.library.withLock({ _ in ch5_close_dataset(dataset) }) == 0 else { throw failed() }
    }

    private func create(
        _ file: Int64, _ name: String, _ type: CH5ElementType, _ shape: [Int], chunk: [Int]?, width: Int, dtype: String?, trueShape: [Int]?
    ) -> Int64 {
        let shape = shape.map { UInt64($0) }, chunk = chunk?.map { UInt64($0) }, trueShape = trueShape?.map { UInt64($0) }
        return name.withCString { name in
            shape.withUnsafeBufferPointer { shape in
                (chunk ?? []).withUnsafeBufferPointer { chunkPointer in
                    (trueShape ?? []).withUnsafeBufferPointer { truePointer in
                        func make(_ dtype: UnsafePointer<CChar>?) -> Int64 {
                            var description = ch5_description(
                                name: name, type: Int32(type.rawValue), rank: Int32(shape.count), shape: shape.baseAddress,
                                chunk: chunk == nil ? nil : chunkPointer.baseAddress, shuffle: width > 1 ? 1 : 0,
                                filter: options.filter == .zstd ? CH5_FILTER_ZSTD : options.filter == .deflate ? CH5_FILTER_DEFLATE : 0,
                                level: Self.level, dtype: dtype, true_rank: trueShape.map { Int32($0.count) } ?? -1,
                                true_shape: truePointer.baseAddress)
                            return HDF5.library.withLock { _ in ch5_create_dataset(file, &description) }
                        }
                        return dtype.map { $0.withCString { make($0) } } ?? make(nil)
                    }
                }
            }
        }
    }

    /// Whole rows, as many as fit; a row that does not fit is cut.
    private static func chunk(_ shape: [Int], _ width: Int) -> [Int] {
        var chunk = shape.map { _ in 1 }
        var bytes = width
        for dimension in shape.indices.reversed() {
            chunk[dimension] = max(1, min(shape[dimension], chunkSize / bytes))
            bytes *= chunk[dimension]
            if chunk[dimension] < shape[dimension] { break }
        }
        return chunk
    }

    private func writeContiguous(_ tensor: StoredTensor, _ dataset: Int64, _ path: String, _ failed: () -> FileFailure) throws {
        let buffer = try AlignedBuffer(byteCount: min(tensor.byteCount, 4 << 20))
        defer { withExtendedLifetime(buffer) {} }
        if tensor.byteCount <= buffer.bytes.count {
            let bytes = buffer.slice(0..<tensor.byteCount)
            try readSource(tensor.offset, into: bytes)
            guard HDF5.library.withLock({ _ in ch5_write_whole(dataset, bytes.baseAddress) }) == 0 else { throw failed() }
            return
        }
        // Memory must not follow the tensor's size, so the library only says where the data go.
        let start = HDF5.library.withLock { _ in ch5_data_offset(dataset) }
        guard start >= 0 else { throw failed() }
        let file = try PositionedFile.openForWriting(path)
        for done in stride(from: 0, to: tensor.byteCount, by: buffer.bytes.count) {
            try options.checkpoint()
            let piece = buffer.slice(0..<min(buffer.bytes.count, tensor.byteCount - done))
            try readSource(tensor.offset + done, into: piece)
            try file.write(UnsafeRawBufferPointer(piece), at: Int(start) + done)
        }
    }

    private func readSource(_ offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        guard try source.bytes.read(into: buffer, at: offset) == buffer.count else {
            throw ContainerFailure(source.bytes.path, "the file ended at byte \(offset) while it was packed; restore it and run again")
        }
    }

    // MARK: Chunks

    private func writeChunks(
        _ tensor: StoredTensor, _ shape: [Int], _ chunk: [Int], _ width: Int, _ dataset: Int64, _ failed: () -> FileFailure
    ) throws {
        let counts = zip(shape, chunk).map { ceilingDivide($0, $1) }
        let total = counts.reduce(1, *)
        let chunkBytes = chunk.reduce(width, *)
        let wave = max(1, min(total, options.memory / Workspace.byteCount(chunkBytes), 4 * options.workers))
        let spaces = try (0..<wave).map { _ in try Workspace(chunkBytes) }
        @Sendable func origin(_ number: Int) -> [Int] {
            var rest = number
            var origin = shape
            for dimension in shape.indices.reversed() {
                origin[dimension] = rest % counts[dimension] * chunk[dimension]
                rest /= counts[dimension]
            }
            return origin
        }
        for first in stride(from: 0, to: total, by: wave) {
            try options.checkpoint()
            let count = min(wave, total - first)
            try ParallelLoop.run(count: count, workers: options.workers, state: { Result { try ZstdFrame.Compressor() } }) { index, compressor in
                try encode(tensor, shape, chunk, width, origin(first + index), spaces[index], compressor.get())
            }
            for index in 0..<count {
                let space = spaces[index]
                let status = HDF5.library.withLock { _ in
                    ch5_write_chunk(dataset, origin(first + index).map { UInt64($0) }, space.memory.bytes.baseAddress! + 2 * chunkBytes, space.count)
                }
                guard status == 0 else { throw failed() }
            }
        }
    }

    /// Gathers a chunk's elements, those beyond the edge as zeros, and applies its filters.
    private func encode(
        _ tensor: StoredTensor, _ shape: [Int], _ chunk: [Int], _ width: Int, _ origin: [Int], _ space: Workspace, _ compressor: ZstdFrame.Compressor
    ) throws {
        let chunkBytes = chunk.reduce(width, *)
        let content = space.memory.slice(0..<chunkBytes), shuffled = space.memory.slice(chunkBytes..<2 * chunkBytes)
        let output = space.memory.slice(2 * chunkBytes..<space.memory.bytes.count)
        try gather(tensor, shape, chunk, width, origin, into: content)
        var bytes = UnsafeRawBufferPointer(content)
        if width > 1 {
            ck_shuffle(
                content.baseAddress?.assumingMemoryBound(to: UInt8.self), shuffled.baseAddress?.assumingMemoryBound(to: UInt8.self), chunkBytes, width
            )
            bytes = UnsafeRawBufferPointer(shuffled)
        }
        if options.filter == .zstd {
            // Shuffled floats have no repetitions, and a search for them spoils the runs of literals.
            space.count = compressor.compress(bytes, into: output, BytePlanes.width(of: tensor.type) > 1 ? .exponents : .general, parts: width)
        } else {
            var size = UInt(output.count)
            let status = compress2(
                output.baseAddress?.assumingMemoryBound(to: UInt8.self), &size, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self),
                UInt(bytes.count),
                Int32(Self.level))
            precondition(status == Z_OK, "a chunk larger than its bound")
            space.count = Int(size)
        }
    }

    private func gather(
        _ tensor: StoredTensor, _ shape: [Int], _ chunk: [Int], _ width: Int, _ origin: [Int], into content: UnsafeMutableRawBufferPointer
    ) throws {
        // Chunks are whole in all dimensions behind the first that is cut, and single in those before.
        let cut = chunk.indices.first { chunk[$0] > 1 } ?? chunk.count - 1
        let inner = shape[(cut + 1)...].reduce(width, *)
        var start = 0
        for dimension in shape.indices { start = start * shape[dimension] + origin[dimension] }
        let count = min(chunk[cut], shape[cut] - origin[cut]) * inner
        try readSource(tensor.offset + start * width, into: UnsafeMutableRawBufferPointer(rebasing: content[..<count]))
        UnsafeMutableRawBufferPointer(rebasing: content[count...]).initializeMemory(as: UInt8.self, repeating: 0)
    }

    // MARK: Types

    /// Nil for blocks, which are refused before a file is planned.
    private static func element(_ type: ScalarType) -> (type: CH5ElementType, width: Int)? {
        switch type {
        case .u8, .f8E4M3, .f8E5M2, .f8E8M0, .f4, .f6E2M3, .f6E3M2, .u4, .i4: (CH5_U8, 1)
        case .bool: (CH5_BOOL, 1)
        case .i8: (CH5_I8, 1)
        case .u16, .bf16: (CH5_U16, 2)
        case .i16: (CH5_I16, 2)
        case .f16: (CH5_F16, 2)
        case .u32: (CH5_U32, 4)
        case .i32: (CH5_I32, 4)
        case .f32: (CH5_F32, 4)
        case .u64: (CH5_U64, 8)
        case .i64: (CH5_I64, 8)
        case .f64: (CH5_F64, 8)
        case .c64: (CH5_C64, 8)
        default: nil
        }
    }

    /// Types that HDF5 does not have are stored as unsigned integers with the attribute `safetensors_dtype`.
    private static func needsName(_ type: ScalarType) -> Bool {
        switch type {
        case .bf16, .f8E4M3, .f8E5M2, .f8E8M0, .f4, .f6E2M3, .f6E3M2, .u4, .i4: true
        default: false
        }
    }
}
