import Runtime
import Tensors

/// Writes an archive: the safetensors file is cut at its tensors, each piece compressed by itself, and a seek table put behind.
struct ZstdArchiveWriter {
    /// Bytes of a chunk: what must be read and restored to see any byte of it.
    static let chunkSize = 2 << 20
    /// Tensors below this share chunks with their neighbours.
    static let smallTensor = 32 << 10

    private struct Piece {
        var range: Range<Int>
        var planes: Int
    }

    private let source: TensorFile
    private let options: PackingOptions
    private let pieces: [Piece]

    init(_ source: TensorFile, _ options: PackingOptions) throws {
        self.source = source
        self.options = options
        pieces = Self.cut(source, size: try source.bytes.size(), keepsByteOrder: options.keepsByteOrder)
    }

    /// Chunks begin and end with tensors, so that reading one costs its own bytes only; they depend on the header alone.
    private static func cut(_ source: TensorFile, size: Int, keepsByteOrder: Bool) -> [Piece] {
        var pieces: [Piece] = []
        var pending = 0..<0
        func flush() {
            for start in stride(from: pending.lowerBound, to: pending.upperBound, by: chunkSize) {
                pieces.append(Piece(range: start..<min(start + chunkSize, pending.upperBound), planes: 1))
            }
            pending = pending.upperBound..<pending.upperBound
        }
        func join(_ end: Int) {
            if end - pending.lowerBound > chunkSize { flush() }
            pending = pending.lowerBound..<end
        }
        // The header first, by itself: it is read to open the file.
        pending = 0..<(source.safetensorsDataOffset ?? 0)
        flush()
        for tensor in source.tensors {
            guard tensor.byteCount >= smallTensor else {
                join(tensor.offset + tensor.byteCount)
                continue
            }
            flush()
            let planes = keepsByteOrder ? 1 : BytePlanes.width(of: tensor.type)
            let end = tensor.offset + tensor.byteCount
            for start in stride(from: tensor.offset, to: end, by: chunkSize) {
                pieces.append(Piece(range: start..<min(start + chunkSize, end), planes: planes))
            }
            pending = end..<end
        }
        join(size)
        flush()
        return pieces
    }

    /// One worker's buffers: a chunk, its planes, and the frames.
    private final class Workspace: Sendable {
        static var byteCount: Int { 2 * chunkSize + frameBound }
        private static var frameBound: Int {
            max(ZstdFrame.Compressor.bound(chunkSize), 4 * ZstdFrame.Compressor.bound(chunkSize / 4))
        }

        /// Invariant: a workspace is used by one thread at a time; the writer looks at it when its worker is done.
        let memory: AlignedBuffer
        nonisolated(unsafe) let compressor: ZstdFrame.Compressor
        nonisolated(unsafe) var frames: [Int] = []

        init() throws {
            memory = try AlignedBuffer(byteCount: Self.byteCount)
            compressor = try ZstdFrame.Compressor()
        }

        var chunk: UnsafeMutableRawBufferPointer { memory.slice(0..<chunkSize) }
        var planes: UnsafeMutableRawBufferPointer { memory.slice(chunkSize..<2 * chunkSize) }
        var output: UnsafeMutableRawBufferPointer { memory.slice(2 * chunkSize..<Self.byteCount) }
    }

    func write(to path: String) throws {
        let file = try PositionedFile.openForWriting(path, truncate: true)
        var end = 0
        try write { bytes in
            try file.write(bytes, at: end)
            end += bytes.count
        }
        try file.synchronize()
    }

    /// Hands the archive to `sink`, piece by piece in order.
    func write(_ sink: (UnsafeRawBufferPointer) throws -> Void) throws {
        var table = SeekTable()
        // Waves of chunks: compressed side by side, written in order, so that the file does not depend on who was faster.
        let wave = max(1, min(pieces.count, options.memory / Workspace.byteCount, 8 * options.workers))
        let spaces = try (0..<wave).map { _ in try Workspace() }
        for first in stride(from: 0, to: pieces.count, by: wave) {
            try options.checkpoint()
            let count = min(wave, pieces.count - first)
            try ParallelLoop.run(count: count, workers: options.workers, state: {}) { index, _ in
                try compress(pieces[first + index], spaces[index])
            }
            for index in 0..<count {
                let piece = pieces[first + index]
                var start = 0
                for (number, size) in spaces[index].frames.enumerated() {
                    try sink(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(spaces[index].output)[start..<start + size]))
                    table.append(
                        compressed: size, restored: piece.range.count / piece.planes,
                        planes: number == 0 && piece.planes > 1 ? UInt8(piece.planes) : 0)
                    start += size
                }
            }
        }
        try table.bytes.withUnsafeBytes { try sink($0) }
    }

    private func compress(_ piece: Piece, _ space: Workspace) throws {
        let compressor = space.compressor
        let chunk = UnsafeMutableRawBufferPointer(rebasing: space.chunk[..<piece.range.count])
        guard try source.bytes.read(into: chunk, at: piece.range.lowerBound) == piece.range.count else {
            throw ContainerFailure(
                source.bytes.path, "the file ended at byte \(piece.range.lowerBound) while it was packed; restore it and run again")
        }
        space.frames = []
        let output = space.output
        guard piece.planes > 1 else {
            space.frames = [compressor.compress(UnsafeRawBufferPointer(chunk), into: output, .general)]
            return
        }
        let planes = UnsafeMutableRawBufferPointer(rebasing: space.planes[..<piece.range.count])
        BytePlanes.split(UnsafeRawBufferPointer(chunk), into: planes, width: piece.planes)
        let planeSize = piece.range.count / piece.planes
        var start = 0
        for plane in 0..<piece.planes {
            let content = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(planes)[plane * planeSize..<(plane + 1) * planeSize])
            let size = compressor.compress(
                content, into: UnsafeMutableRawBufferPointer(rebasing: output[start...]), plane == 0 ? .exponents : .mantissas)
            space.frames.append(size)
            start += size
        }
    }
}
