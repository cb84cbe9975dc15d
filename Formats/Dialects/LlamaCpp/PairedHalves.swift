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
        let headBytes = headRows * rowBytes
        guard headBytes > 0 else { return }
        let head = try AlignedBuffer(byteCount: headBytes)
        try withExtendedLifetime(head) {
            for start in stride(from: range.lowerBound / headBytes * headBytes, to: range.upperBound, by: headBytes) {
                guard try bytes.read(into: head.bytes, at: offset + start) == headBytes else {
                    throw ShortRead(path: bytes.path, tensor: "rows of a head", offset: offset + start)
                }
                let wanted = max(range.lowerBound, start) - start..<min(range.upperBound, start + headBytes) - start
                var at = wanted.lowerBound
                while at < wanted.upperBound {
                    let (row, inside) = (at / rowBytes, at % rowBytes)
                    let count = min(rowBytes - inside, wanted.upperBound - at)
                    // Row j * n/2 + i of the model is row 2i + j of the file.
                    let place = (row % (headRows / 2) * 2 + row / (headRows / 2)) * rowBytes + inside
                    UnsafeMutableRawBufferPointer(rebasing: buffer[start + at - range.lowerBound..<start + at - range.lowerBound + count])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: head.bytes[place..<place + count]))
                    at += count
                }
            }
        }
    }
}
