import Tensors

/// A tensor of which the two halves of every head stand pair by pair in a file, in the order that the model has.
package struct PairedHalves: ByteSegment {
    private let bytes: any ByteSource
    private let offset: Int
    private let rowBytes: Int
    private let headRows: Int
    package let byteCount: Int

    /// - Parameters:
    ///   - bytes: where the tensor lies, from `offset` on.
    ///   - headRows: rows of a head, an even number; they divide the rows of the tensor.
    /// - Throws: ``DialectFailure`` if rows are no whole bytes.
    package init(_ tensor: StoredTensor, in bytes: any ByteSource, headRows: Int) throws(DialectFailure) {
        guard let rows = tensor.shape.first, rows > 0, tensor.byteCount % rows == 0, headRows > 0, headRows % 2 == 0, rows % headRows == 0 else {
            throw DialectFailure(tensor: tensor.name, reason: "is \(tensor.summary), whose rows cannot be put in order")
        }
        self.bytes = bytes
        self.headRows = headRows
        offset = tensor.offset
        rowBytes = tensor.byteCount / rows
        byteCount = tensor.byteCount
    }

    package func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        guard rowBytes > 0 else { return }
        let headBytes = headRows * rowBytes
        // Whole heads at once; of others row by row what is asked for.
        let room = try AlignedBuffer(byteCount: headBytes)
        let head = UnsafeMutableRawBufferPointer(rebasing: room.bytes[..<headBytes])
        try withExtendedLifetime(room) {
            var at = range.lowerBound
            while at < range.upperBound {
                let start = at / headBytes * headBytes
                if at == start, range.upperBound - start >= headBytes {
                    try fill(head, from: start)
                    for row in 0..<headRows {
                        put(head, place(row) * rowBytes, rowBytes, into: buffer, at: start + row * rowBytes - range.lowerBound)
                    }
                    at += headBytes
                } else {
                    let (row, inside) = ((at - start) / rowBytes, (at - start) % rowBytes)
                    let count = min(rowBytes - inside, range.upperBound - at)
                    let target = UnsafeMutableRawBufferPointer(rebasing: buffer[at - range.lowerBound..<at - range.lowerBound + count])
                    try fill(target, from: start + place(row) * rowBytes + inside)
                    at += count
                }
            }
        }
    }

    /// Row j * n/2 + i of a head of the model is row 2i + j of the file.
    private func place(_ row: Int) -> Int { row % (headRows / 2) * 2 + row / (headRows / 2) }

    private func fill(_ target: UnsafeMutableRawBufferPointer, from start: Int) throws {
        guard try bytes.read(into: target, at: offset + start) == target.count else {
            throw ShortRead(path: bytes.path, tensor: "rows of a head", offset: offset + start)
        }
    }

    private func put(_ source: UnsafeMutableRawBufferPointer, _ from: Int, _ count: Int, into buffer: UnsafeMutableRawBufferPointer, at start: Int) {
        UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + count])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[from..<from + count]))
    }
}
