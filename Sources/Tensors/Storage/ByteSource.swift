/// Bytes at offsets, read from any thread: a plain file, or what a container's encoding hides.
///
/// Every container presents its tensors as places in one such sequence of bytes, so that whoever converts, audits or runs a
/// checkpoint need not know how it is stored.
package protocol ByteSource: Sendable {
    /// The file to name in messages.
    var path: String { get }

    /// The files behind the bytes.
    var files: [any SourceFile] { get }

    /// How many bytes there are.
    func size() throws -> Int

    /// Fills `buffer` from `offset`; returns how many bytes there were, fewer only at the end.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int

    /// Where the bytes from `offset` on, at most `count` of them, lie as they are in a file, so that the kernel can copy them;
    /// nil if they must be decoded or gathered.
    func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)?
}

extension ByteSource {
    /// Up to `count` bytes from `offset`.
    package func read(_ count: Int, at offset: Int) throws -> [UInt8] {
        var failure: (any Error)?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            do { filled = try read(into: UnsafeMutableRawBufferPointer(buffer), at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Reads runs one after another into `buffer`, which has their byte count.
    /// - Returns: how many bytes were read before the source ended.
    package func read(into buffer: UnsafeMutableRawBufferPointer, _ runs: ByteRuns, at offset: Int) throws -> Int {
        var done = 0
        for range in runs.ranges {
            let piece = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + range.count])
            let count = try read(into: piece, at: offset + range.lowerBound)
            done += count
            if count < range.count { break }
        }
        return done
    }
}

extension PositionedFile: SourceFile {
    package var files: [any SourceFile] { [self] }

    package func version() throws -> String { "\(try modificationTime())" }

    package func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { (self, offset, count) }
}
