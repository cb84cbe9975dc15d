/// Stored bytes that belong together: `count` runs of `length` bytes, `stride` apart.
public struct ByteRuns: Sendable, Equatable {
    /// First byte of the first run.
    public var start: Int
    public var length: Int
    public var stride: Int
    public var count: Int

    /// Runs without gaps become one.
    public init(start: Int, length: Int, stride: Int, count: Int) {
        let isWhole = length == stride || count <= 1
        self.start = start
        self.length = isWhole ? length * count : length
        self.stride = isWhole ? length * count : stride
        self.count = isWhole ? min(count, 1) : count
    }

    public init(_ range: Range<Int>) { self.init(start: range.lowerBound, length: range.count, stride: range.count, count: 1) }

    public var byteCount: Int { length * count }

    /// Whether the bytes lie in one piece.
    public var isContiguous: Bool { count <= 1 }

    /// The runs, one after another.
    public var ranges: some Sequence<Range<Int>> {
        (0..<count).lazy.map { start + $0 * stride..<start + $0 * stride + length }
    }
}

extension PositionedFile {
    /// Writes `buffer` to runs.
    public func write(_ buffer: UnsafeRawBufferPointer, _ runs: ByteRuns, at offset: Int) throws(FileFailure) {
        var done = 0
        for range in runs.ranges {
            try write(UnsafeRawBufferPointer(rebasing: buffer[done..<done + range.count]), at: offset + range.lowerBound)
            done += range.count
        }
    }
}
