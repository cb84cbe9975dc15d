import CHDF5Files
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Where the datasets of a file lie, as libhdf5 says.
///
/// The library is known to crash, loop and allocate without bound on damaged files, so it runs in a child process with limits of its own
/// (CHDF5Files/index.c) and what it says is checked like anything else that comes from a file.
struct HDF5Index {
    static let byteLimit = 1 << 30
    static let childMemory = 1 << 30

    /// Processor time for a file of some bytes. A small damaged one that leads the library in circles is given up after seconds.
    static func childSeconds(for byteCount: Int) -> UInt32 { UInt32(min(300, 5 + (byteCount >> 24))) }

    var datasets: [HDF5Dataset] = []

    init(of file: any SourceFile) throws {
        let bytes = try Self.run(file.path, seconds: Self.childSeconds(for: try file.size()))
        var reader = Reader(bytes: bytes, path: file.path)
        while let dataset = try reader.next() { datasets.append(dataset) }
    }

    private static func run(_ path: String, seconds: UInt32) throws -> [UInt8] {
        if let missing = HDF5.missingLibrary() { throw ContainerFailure(path, missing) }
        var child: Int32 = 0
        let descriptor = HDF5.library.withLock { _ in ch5_open_index(path, childMemory, seconds, &child) }
        guard descriptor >= 0 else { throw FileFailure(.open, path, reason: .init(rawValue: errno)) }
        var bytes: [UInt8] = []
        let piece = try AlignedBuffer(byteCount: 1 << 16)
        defer { withExtendedLifetime(piece) {} }
        var isTooLong = false
        while true {
            let count = Glibc_read(descriptor, piece.bytes.baseAddress, 1 << 16)
            if count < 0, errno == EINTR { continue }
            if count <= 0 { break }
            if bytes.count + count > byteLimit { isTooLong = true } else { bytes += piece.slice(0..<count) }
            if isTooLong { break }
        }
        close(descriptor)
        let status = ch5_wait(child)
        guard !isTooLong else { throw ContainerFailure(path, "its index is longer than \(byteLimit) bytes; the file is damaged") }
        guard status == 0 else {
            throw ContainerFailure(
                path,
                "libhdf5 gave up on it (\(status < 0 ? "signal \(-status)" : "status \(status)")); the file is damaged, copy it again or check it with h5dump"
            )
        }
        return bytes
    }

    /// Takes the child's records apart.
    private struct Reader {
        let bytes: [UInt8]
        let path: String
        var at = 0

        private func damaged() -> ContainerFailure { ContainerFailure(path, "its index is cut short; the file is damaged") }

        private mutating func number(_ size: Int) throws -> UInt64 {
            guard bytes.count - at >= size else { throw damaged() }
            defer { at += size }
            return (0..<size).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) }
        }

        /// A number that sizes and offsets are made of.
        private mutating func count(_ size: Int) throws -> Int {
            let value = try number(size)
            guard value < 1 << 62 else { throw damaged() }
            return Int(value)
        }

        private mutating func text() throws -> String {
            let size = try count(2)
            guard bytes.count - at >= size else { throw damaged() }
            defer { at += size }
            return String(decoding: bytes[at..<at + size], as: UTF8.self)
        }

        private mutating func take(_ size: Int) throws -> [UInt8] {
            guard size >= 0, bytes.count - at >= size else { throw damaged() }
            defer { at += size }
            return Array(bytes[at..<at + size])
        }

        mutating func next() throws -> HDF5Dataset? {
            while true {
                switch Int(try number(1)) {
                case Int(CH5_DATASET.rawValue): return try dataset()
                case Int(CH5_SKIPPED.rawValue):
                    // Texts and tables beside the weights are no tensors; what a tensor should be is missed by its name.
                    _ = try text()
                    _ = try text()
                case Int(CH5_END.rawValue): return nil
                case Int(CH5_UNREADABLE.rawValue): throw FileFailure(.read, path, systemError: Int32(try number(2)))
                case Int(CH5_FAILED.rawValue): throw ContainerFailure(path, try text() + "; copy it again")
                default: throw damaged()
                }
            }
        }

        private mutating func dataset() throws -> HDF5Dataset {
            let name = try text()
            var element = HDF5Dataset.Element(
                kind: Int(try number(1)), isSigned: try number(1) != 0, size: Int(try number(1)), isBigEndian: try number(1) != 0,
                exponentBits: Int(try number(1)), mantissaBits: Int(try number(1)))
            element.dtype = try text()
            let trueRank = Int(try number(1))
            if trueRank != 0xFF { element.trueShape = try (0..<trueRank).map { _ in try count(8) } }
            let rank = Int(try number(1))
            let shape = try (0..<rank).map { _ in try count(8) }
            let fill = try take(element.size)
            var dataset = HDF5Dataset(path: name, element: element, shape: shape, fill: fill, storage: .compact([]))
            switch Int(try number(1)) {
            case Int(CH5_CONTIGUOUS.rawValue):
                let address = try number(8), size = try count(8)
                dataset.storage = address == .max ? .absent : .contiguous(offset: Int(min(address, 1 << 62)), byteCount: size)
            case Int(CH5_COMPACT.rawValue): dataset.storage = .compact(try take(try count(8)))
            default:
                let chunk = try (0..<rank).map { _ in try count(8) }
                let filters = try (0..<Int(number(1))).map { _ in
                    let id = Int(try number(4))
                    _ = try number(4)
                    let values = try (0..<Int(number(1))).map { _ in Int(try number(4)) }
                    return HDF5Dataset.Filter(id: id, values: values)
                }
                let total = try number(8)
                guard total <= UInt64((bytes.count - at) / 20) else {
                    throw ContainerFailure(path, "dataset \(name) has more chunks than can be; the file is damaged")
                }
                let chunks = try (0..<Int(total)).map { _ in
                    HDF5Dataset.Chunk(offset: Int(bitPattern: UInt(try number(8))), byteCount: try count(8), skippedFilters: UInt32(try number(4)))
                }
                dataset.storage = .chunked(shape: chunk, filters: filters, chunks: chunks)
            }
            return dataset
        }
    }
}

private func Glibc_read(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer?, _ count: Int) -> Int { read(descriptor, buffer, count) }
