/// Bytes that are put together when they are read: chunks that must be decoded, elements that lie apart, pieces of several files.
package protocol ByteSegment: Sendable {
    var byteCount: Int { get }

    /// Fills `buffer` with the bytes `range`, which lie inside the segment.
    func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws
}

/// A file's own bytes, and behind its end the segments that are made of them.
package final class SegmentedBytes: ByteSource {
    package let path: String
    package let files: [any SourceFile]
    /// The file whose bytes come first; nil if there are segments only.
    private let base: (any SourceFile)?
    private let baseSize: Int
    private let segments: [(offset: Int, segment: any ByteSegment)]
    private let end: Int

    /// Collects segments and says where each will be.
    package struct Builder {
        private let base: (any SourceFile)?
        private let baseSize: Int
        private var segments: [(offset: Int, segment: any ByteSegment)] = []
        private var end: Int

        /// - Parameter size: of `file`, or 0 without one.
        package init(_ file: (any SourceFile)? = nil, size: Int = 0) {
            base = file
            baseSize = size
            end = size
        }

        /// Puts a segment behind what is there; returns its first byte.
        package mutating func add(_ segment: any ByteSegment) -> Int {
            defer { end += segment.byteCount }
            if segment.byteCount > 0 { segments.append((end, segment)) }
            return end
        }

        package func finish(path: String, files: [any SourceFile]) -> SegmentedBytes {
            SegmentedBytes(path: path, files: files, base: base, baseSize: baseSize, segments: segments, end: end)
        }
    }

    private init(
        path: String, files: [any SourceFile], base: (any SourceFile)?, baseSize: Int, segments: [(offset: Int, segment: any ByteSegment)], end: Int
    ) {
        self.path = path
        self.files = files
        self.base = base
        self.baseSize = baseSize
        self.segments = segments
        self.end = end
    }

    package func size() -> Int { end }

    package func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? {
        guard let base, offset + count <= baseSize else { return nil }
        return base.stored(count, at: offset)
    }

    /// A read that begins in a segment ends with it: tensors do not cross from one to the next.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int {
        if let base, offset < baseSize { return try base.read(into: buffer, at: offset) }
        var low = 0, high = segments.count
        while low < high {
            let middle = (low + high) / 2
            if segments[middle].offset <= offset { low = middle + 1 } else { high = middle }
        }
        guard low > 0 else { return 0 }
        let (start, segment) = segments[low - 1]
        let range = (offset - start)..<min(offset - start + buffer.count, segment.byteCount)
        guard !range.isEmpty else { return 0 }
        try segment.read(range, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<range.count]))
        return range.count
    }
}
