/// Stored bytes that belong together: `count` runs of `length` bytes, `stride` apart.
package struct ByteRuns: Sendable, Equatable {
    /// First byte of the first run.
    package var start: Int
    package var length: Int
    package var stride: Int
    package var count: Int

    /// Runs without gaps become one.
    package init(start: Int, length: Int, stride: Int, count: Int) {
        let isWhole = length == stride || count <= 1
        self.start = start
        self.length = isWhole ? length * count : length
        self.stride = isWhole ? length * count : stride
        self.count = isWhole ? min(count, 1) : count
    }

    package init(_ range: Range<Int>) { self.init(start: range.lowerBound, length: range.count, stride: range.count, count: 1) }

    package var byteCount: Int { length * count }

    /// Whether the bytes lie in one piece.
    package var isContiguous: Bool { count <= 1 }

    /// The runs, one after another.
    package var ranges: Ranges { Ranges(runs: self, index: 0) }

    package struct Ranges: Sequence, IteratorProtocol {
        fileprivate let runs: ByteRuns
        fileprivate var index: Int

        package mutating func next() -> Range<Int>? {
            guard index < runs.count else { return nil }
            let start = runs.start + index * runs.stride
            index += 1
            return start..<start + runs.length
        }
    }
}

extension PositionedFile {
    /// Writes `buffer` to runs.
    package func write(_ buffer: UnsafeRawBufferPointer, _ runs: ByteRuns, at offset: Int) throws(FileFailure) {
        var done = 0
        for range in runs.ranges {
            try write(UnsafeRawBufferPointer(rebasing: buffer[done..<done + range.count]), at: offset + range.lowerBound)
            done += range.count
        }
    }
}
