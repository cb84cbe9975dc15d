import Tensors

/// A tensor put together from the parts that ranks hold.
package struct JoinedTensor: ByteSegment {
    /// Parts one after another (rows), or side by side in every row (columns).
    package var parts: [(bytes: any ByteSource, offset: Int)]
    /// Rows of each part, and bytes of a part's row: all parts are alike.
    package var rows: Int
    package var rowBytes: Int
    package var isSideBySide: Bool

    package var byteCount: Int { parts.count * rows * rowBytes }

    package init(parts: [(bytes: any ByteSource, offset: Int)], rows: Int, rowBytes: Int, isSideBySide: Bool) {
        self.parts = parts
        self.rows = rows
        self.rowBytes = rowBytes
        self.isSideBySide = isSideBySide
    }

    package func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        // Stretches of the whole that lie in one part.
        let stretch = isSideBySide ? rowBytes : rows * rowBytes
        var at = range.lowerBound
        while at < range.upperBound {
            let inside = at % stretch
            let count = min(stretch - inside, range.upperBound - at)
            let number = at / stretch
            let part = parts[number % parts.count]
            let offset = part.offset + (isSideBySide ? number / parts.count * rowBytes : 0) + inside
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer[at - range.lowerBound..<at - range.lowerBound + count])
            guard try part.bytes.read(into: target, at: offset) == count else {
                throw ShortRead(path: part.bytes.path, tensor: "a rank's part", offset: offset)
            }
            at += count
        }
    }
}
