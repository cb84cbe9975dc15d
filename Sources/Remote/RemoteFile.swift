import Crypto
import Runtime
import Tensors

/// How one file is asked for.
package protocol RemoteLocation: Sendable {
    /// The URL of the file's bytes and the headers to send with it.
    /// - Parameter refused: a URL that was given before and does not hold any more.
    func request(insteadOf refused: String?) throws -> (url: String, headers: [(name: String, value: String)])
}

/// A file that is read over the network by ranges, as far as it is needed.
package final class RemoteFile: SourceFile {
    package let path: String
    package let byteCount: Int
    /// SHA-256 of the whole file as its publisher gives it.
    package let published: String?
    private let identity: String
    private let location: any RemoteLocation
    private let pool: BlockPool
    /// Where the last reads ended, of several workers: one that begins there goes on with a stream.
    private let ends = Lock<[Int]>([])
    private static let streams = 64
    let proof = Lock(Proof())

    /// What was seen of the whole.
    struct Proof {
        var hash = SHA256()
        /// Blocks that went into the hash, from the first on.
        var blocks = 0
        var isBusy = false
        /// A block was gone before its turn came.
        var isBroken = false
        var found: String?
    }

    /// - Parameters:
    ///   - path: the name for messages, the same for the same contents.
    ///   - identity: changes with the contents: a hash, or what the server calls an ETag.
    package init(
        _ path: String, byteCount: Int, identity: String, published: String? = nil, location: any RemoteLocation, pool: BlockPool = .shared
    ) {
        self.path = path
        self.byteCount = byteCount
        self.identity = identity
        self.published = published
        self.location = location
        self.pool = pool
    }

    package var files: [any SourceFile] { [self] }
    package func version() -> String { identity }
    package func size() -> Int { byteCount }
    package func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int {
        guard offset >= 0 else { return 0 }
        let end = min(byteCount, offset.addingReportingOverflow(buffer.count).partialValue)
        // A header, some scales: not worth a block. A stream of small reads is.
        let isStream = ends.withLock { ends in
            let goesOn = offset >= BlockPool.piece && ends.contains(offset)
            ends.removeAll { $0 == offset }
            ends.append(end)
            if ends.count > Self.streams { ends.removeFirst() }
            return goesOn || end - offset >= BlockPool.smallRead
        }
        var at = offset
        while at < end {
            let block = try pool.block(of: self, holding: at, isStream: isStream)
            let skip = at - block.offset
            let count = min(block.bytes.count - skip, end - at)
            block.bytes.withUnsafeBytes {
                UnsafeMutableRawBufferPointer(rebasing: buffer[(at - offset)..<(at - offset + count)])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[skip..<skip + count]))
            }
            at += count
        }
        return max(0, end - offset)
    }

    // MARK: Asking

    /// Refusals of a signed URL after which a new one is not asked for.
    private static let renewals = 8

    /// The bytes of a range inside the file, and nothing else.
    func fetch(_ range: Range<Int>) throws -> [UInt8] {
        guard !range.isEmpty else { return [] }
        var refused: String?
        for _ in 0..<Self.renewals {
            let (url, headers) = try location.request(insteadOf: refused)
            var exchange = Exchange(url: url, headers: headers, limit: range.count)
            exchange.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            let answer: Answer
            do {
                answer = try Transport.shared.ask(exchange) { self.flaw($0, range) }
            } catch RemoteFailure.unreachable(_, let reason) {
                throw RemoteFailure.unreachable(path, reason: "bytes \(range.lowerBound) to \(range.upperBound - 1): \(reason)")
            }
            switch answer.status {
            case 200, 206: return answer.body
            case 400, 401, 403, 410: refused = url
            case 404: throw RemoteFailure.missing(path, reason: "there is no such file any more")
            case 412, 416: throw RemoteFailure.changed(path, reason: "the server answered \(answer.status) to bytes of it")
            default:
                throw RemoteFailure.answer(path, reason: "the server answered \(answer.status) where bytes were asked for\(answer.requestNumber)")
            }
        }
        throw RemoteFailure.missing(path, reason: "its bytes are refused, even to a fresh request; may the token or the key that is set read it?")
    }

    /// Why an answer is not the range that was asked for.
    private func flaw(_ answer: Answer, _ range: Range<Int>) -> String? {
        switch answer.status {
        case 206:
            // "bytes 0-99/1234"
            let parts = (answer.header("content-range") ?? "").split { $0 == " " || $0 == "-" || $0 == "/" }
            guard parts.count == 4, Int(parts[1]) == range.lowerBound, Int(parts[2]) == range.upperBound - 1 else {
                return "the server sent the range \"\(answer.header("content-range") ?? "none")\""
            }
            if let total = Int(parts[3]), total != byteCount { return "the server says that the file has \(total) bytes, not \(byteCount)" }
        case 200:
            guard range == 0..<byteCount else { return "the server ignores ranges" }
        default: return nil
        }
        return answer.body.count == range.count ? nil : "\(answer.body.count) bytes came where \(range.count) were asked for"
    }
}

/// A small file, here as a whole.
struct HeldFile: SourceFile {
    let path: String
    let identity: String
    private let bytes: MadeBytes

    init(_ bytes: [UInt8], path: String, identity: String) {
        self.bytes = MadeBytes(bytes, path: path)
        self.path = path
        self.identity = identity
    }

    var files: [any SourceFile] { [self] }
    func version() -> String { identity }
    func size() -> Int { bytes.size() }
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int { bytes.read(into: buffer, at: offset) }
    func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }
}
