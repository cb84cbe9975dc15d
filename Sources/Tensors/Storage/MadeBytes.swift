/// Bytes that were made, not read: a small file that another form of a model says the content of.
package struct MadeBytes: ByteSource {
    package let path: String
    private let bytes: [UInt8]

    /// - Parameter path: the name for messages.
    package init(_ bytes: [UInt8], path: String) {
        self.bytes = bytes
        self.path = path
    }

    package var files: [any SourceFile] { [] }

    package func size() -> Int { bytes.count }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
        let count = max(0, min(buffer.count, bytes.count - offset))
        guard offset >= 0, count > 0 else { return 0 }
        bytes.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[offset..<offset + count])) }
        return count
    }

    package func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }
}
