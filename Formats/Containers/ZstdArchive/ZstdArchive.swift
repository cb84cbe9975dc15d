import CZstd
import Tensors

/// Safetensors shards compressed losslessly, in zstd's seekable format: any tensor is read without unpacking the rest.
package enum ZstdArchive: PackedContainer {
    package static let name = "zstd"
    package static let endings = [".safetensors.zst"]
    /// Of the restored files, so that `zstd -d` leaves a checkpoint that any reader opens.
    package static let indexName = SafetensorsIndex.fileName
    package static let wrapsSafetensors = true

    package static func listedName(of fileName: String) -> String { String(fileName.dropLast(".zst".count)) }

    package static func recognises(_ start: [UInt8]) -> Bool {
        guard start.count >= 4 else { return false }
        let magic = start.word(at: 0)
        return magic == ZstdFrame.magic || ZstdFrame.isSkippable(magic)
    }

    /// Opens an archive. Its bytes are those of the safetensors file that it restores.
    /// The version of libzstd.
    package static var libraryVersion: String { String(cString: ZSTD_versionString()) }

    package static func open(_ file: any SourceFile) throws -> TensorFile { try open(bytes: file) }

    /// Opens an archive that lies in any source of bytes.
    package static func open(bytes: any ByteSource) throws -> TensorFile { try Safetensors.open(bytes: SeekableZstd(bytes)) }

    package static func fileName(_ place: (number: String, count: String)?) -> String { Safetensors.fileName(place) + ".zst" }

    package static func obstacle(to tensors: [TensorDeclaration]) -> String? { Safetensors.obstacle(to: tensors) }

    package static func pack(_ source: TensorFile, to path: String, _ options: PackingOptions) throws {
        try ZstdArchiveWriter(source, options).write(to: path)
    }

    /// Hands an archive of `source` to `sink`, piece by piece in order.
    package static func pack(_ source: TensorFile, _ options: PackingOptions, _ sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        try ZstdArchiveWriter(source, options).write(sink)
    }
}

/// The restored bytes of a seekable zstd file, byte planes undone.
final class SeekableZstd: ByteSource {
    /// Frames that belong together: one whose content is as it is, or one for each byte plane.
    struct Chunk: Sendable, Equatable {
        /// First byte of the first frame in the archive.
        var stored: Int
        /// First byte of what it restores to.
        var offset: Int
        var byteCount: Int
        /// Compressed bytes of the frames.
        var frames: [Int]
    }

    /// A chunk is restored in memory as a whole.
    static let chunkLimit = 256 << 20

    private let file: any ByteSource
    private let chunks: [Chunk]
    private let byteCount: Int
    private let number = DecodedChunks.shared.newFile()

    var path: String { file.path }
    var files: [any SourceFile] { file.files }

    init(_ file: any ByteSource) throws {
        self.file = file
        let table = try SeekTable(reading: file)
        var chunks: [Chunk] = []
        var stored = 0, offset = 0, index = 0
        while index < table.frames.count {
            let count = max(1, Int(table.planes[index]))
            let frames = table.frames[index..<min(index + count, table.frames.count)]
            let size = frames.reduce(0) { $0 + $1.restored }
            guard frames.count == count, frames.allSatisfy({ $0.restored * count == size }), count == 1 || size % count == 0 else {
                throw ContainerFailure(
                    file.path, "frame \(index) does not have the \(count) equal byte planes that it promises; the archive is damaged")
            }
            guard size <= Self.chunkLimit else {
                throw ContainerFailure(
                    file.path, "a frame restores to \(size) bytes, above the limit of \(Self.chunkLimit); restore the file with `zstd -d` first")
            }
            chunks.append(Chunk(stored: stored, offset: offset, byteCount: size, frames: frames.map(\.compressed)))
            stored += frames.reduce(0) { $0 + $1.compressed }
            offset += size
            index += count
        }
        self.chunks = chunks
        byteCount = offset
    }

    deinit { DecodedChunks.shared.forget(file: number) }

    func size() -> Int { byteCount }

    func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int {
        guard offset >= 0, offset < byteCount else { return 0 }
        let end = min(byteCount, offset + buffer.count)
        var index = chunk(at: offset)
        var done = 0
        while index < chunks.count, chunks[index].offset < end {
            let chunk = chunks[index]
            let range = max(offset, chunk.offset)..<min(end, chunk.offset + chunk.byteCount)
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + range.count])
            if range.count == chunk.byteCount {
                try restore(chunk, index, into: target)
            } else if range.count > 0 {
                let whole = try DecodedChunks.shared.chunk(.init(file: number, chunk: index), count: chunk.byteCount) {
                    try restore(chunk, index, into: $0)
                }
                let start = range.lowerBound - chunk.offset
                // A large chunk is kept by nobody else.
                withExtendedLifetime(whole) {
                    target.copyMemory(from: UnsafeRawBufferPointer(rebasing: whole.bytes[start..<start + range.count]))
                }
            }
            done += range.count
            index += 1
        }
        return done
    }

    /// The chunk that holds the restored byte at `offset`.
    private func chunk(at offset: Int) -> Int {
        var low = 0, high = chunks.count
        while low < high {
            let middle = (low + high) / 2
            if chunks[middle].offset + chunks[middle].byteCount <= offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func restore(_ chunk: Chunk, _ index: Int, into target: UnsafeMutableRawBufferPointer) throws {
        let compressed = chunk.frames.reduce(0, +)
        let isGrouped = chunk.frames.count > 1
        let memory = try AlignedBuffer(byteCount: compressed + (isGrouped ? chunk.byteCount : 0))
        let source = memory.slice(0..<compressed)
        guard try file.read(into: source, at: chunk.stored) == compressed else {
            throw ContainerFailure(path, "the archive ends inside a frame at byte \(chunk.stored); it is truncated, copy it again")
        }
        let planes = isGrouped ? memory.slice(compressed..<compressed + chunk.byteCount) : target
        let planeSize = chunk.byteCount / chunk.frames.count
        var start = 0
        for (plane, size) in chunk.frames.enumerated() {
            let frame = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(source)[start..<start + size])
            let content = UnsafeMutableRawBufferPointer(rebasing: planes[plane * planeSize..<(plane + 1) * planeSize])
            guard ZstdFrame.decompress(frame, into: content) else {
                throw ContainerFailure(
                    path, "the zstd frame at byte \(chunk.stored + start) is damaged (its checksum or its size is wrong); copy the archive again")
            }
            start += size
        }
        if isGrouped { BytePlanes.join(UnsafeRawBufferPointer(planes), into: target, width: chunk.frames.count) }
        withExtendedLifetime(memory) {}
    }
}
