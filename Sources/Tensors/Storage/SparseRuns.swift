#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Bytes that go to a place in a file, cut where pages of zeros begin and end: the longest runs of either kind, in order.
struct SparseRuns: Sequence, IteratorProtocol {
    /// What file systems allocate by; a smaller unit would leave no hole, a larger one fewer.
    static let page = 4096

    private let buffer: UnsafeRawBufferPointer
    private let offset: Int
    private var position = 0

    init(of buffer: UnsafeRawBufferPointer, at offset: Int) {
        self.buffer = buffer
        self.offset = offset
    }

    mutating func next() -> (range: Range<Int>, isZero: Bool)? {
        guard position < buffer.count else { return nil }
        let start = position
        let isZero = isZero(pageEnd(start))
        position = pageEnd(start)
        while position < buffer.count, self.isZero(pageEnd(position)) == isZero { position = pageEnd(position) }
        return (start..<position, isZero)
    }

    /// Where the page of the file ends that holds a byte, within the buffer.
    private func pageEnd(_ start: Int) -> Int { Swift.min(buffer.count, ((offset + start) / Self.page + 1) * Self.page - offset) }

    /// Whether all bytes from ``position`` on are zero: the first is, and each equals the one before.
    private func isZero(_ end: Int) -> Bool {
        guard let base = buffer.baseAddress, buffer[position] == 0 else { return false }
        return memcmp(base + position, base + position + 1, end - position - 1) == 0
    }
}
