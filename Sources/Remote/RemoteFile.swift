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
    /// What else than path and version tells the file from others of their names: the server.
    let server: String
    private let identity: String
    /// Whether every answer must say the identity: no hash does in its place.
    private let isTagged: Bool
    private let location: any RemoteLocation
    private let pool: BlockPool
    /// Where the last reads ended, of several workers: one that begins there goes on with a stream.
    private let ends = Lock<[Int]>([])
    private static let streams = 64
    let proof = Lock(FileProof())

    /// No file is larger, and sums of some thousands of such sizes are numbers.
    static let sizeLimit = 1 << 48

    /// - Parameters:
    ///   - path: the name for messages, the same for the same contents.
    ///   - byteCount: at most ``sizeLimit``.
    ///   - identity: changes with the contents: a hash, or what the server calls an ETag.
    ///   - isTagged: the identity is a header (`ETag`, `Last-Modified`) that comes with every answer.
    package init(
        _ path: String, byteCount: Int, identity: String, published: String? = nil, isTagged: Bool = false, server: String,
        location: any RemoteLocation, pool: BlockPool = .shared
    ) {
        self.path = path
        self.byteCount = byteCount
        self.identity = identity
        self.published = published
        self.isTagged = isTagged
        self.server = server
        self.location = location
        self.pool = pool
    }

    package var files: [any SourceFile] { [self] }
    package func version() -> String { identity }
    package func size() -> Int { byteCount }
    package func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }

    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int {
        guard offset >= 0, offset < byteCount, !buffer.isEmpty else { return 0 }
        let end = offset + min(buffer.count, byteCount - offset)
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
        return end - offset
    }

    // MARK: Asking

    /// Refusals of a URL after which a new one is not asked for; redirects that are followed.
    private static let renewals = 8

    /// The bytes of a range inside the file, and nothing else.
    func fetch(_ range: Range<Int>) throws -> [UInt8] {
        guard !range.isEmpty else { return [] }
        let place = "bytes \(range.lowerBound) to \(range.upperBound - 1)"
        var refused: String?, redirected: String?, reason: String?
        var refusals = 0, hops = 0
        while refusals < Self.renewals {
            let (url, headers) = try redirected.map { ($0, []) } ?? location.request(insteadOf: refused)
            // Refusals have bodies of their own.
            var exchange = Exchange(url: url, headers: headers, limit: max(range.count, 1 << 20))
            exchange.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            let answer: Answer
            do {
                answer = try Transport.shared.ask(exchange) { self.flaw($0, range) }
            } catch RemoteFailure.unreachable(_, let reason) {
                throw RemoteFailure.unreachable(path, reason: "\(place): \(reason)")
            }
            switch answer.status {
            case 200, 206:
                try checkIdentity(answer)
                return answer.body
            case 300..<400:
                guard let next = answer.header("location").flatMap({ URLText.joined(url, $0) }), hops < Self.renewals else {
                    throw RemoteFailure.answer(path, reason: "the server redirects in circles, or nowhere")
                }
                // Perhaps another host: nothing goes there but the question.
                hops += 1
                (redirected, refused) = (next, nil)
            case 400, 401, 403, 410:
                refusals += 1
                (redirected, refused) = (nil, url)
                reason = BucketStore.code(of: answer)
            case 404: throw RemoteFailure.missing(path, reason: "there is no such file any more")
            case 412, 416: throw RemoteFailure.changed(path, reason: "the server answered \(answer.status) to \(place)")
            default:
                throw RemoteFailure.answer(path, reason: "the server answered \(answer.status) where bytes were asked for\(answer.requestNumber)")
            }
        }
        throw RemoteFailure.missing(
            path,
            reason: "its bytes are refused, even to a fresh request\(reason.map { " (\($0))" } ?? ""); may the token or the key that is set read it?")
    }

    /// Why an answer is not the range that was asked for, where another attempt may give it.
    private func flaw(_ answer: Answer, _ range: Range<Int>) -> String? {
        guard answer.status == 200 || answer.status == 206 else { return nil }
        if let coding = answer.header("content-encoding"), coding.lowercased() != "identity" { return "the server sent the file as \(coding)" }
        if answer.status == 206 {
            // "bytes 0-99/1234"
            let parts = (answer.header("content-range") ?? "").split { $0 == " " || $0 == "-" || $0 == "/" }
            guard parts.count == 4, Int(parts[1]) == range.lowerBound, Int(parts[2]) == range.upperBound - 1 else {
                return "the server sent the range \"\(answer.header("content-range") ?? "none")\""
            }
        } else if range != 0..<byteCount {
            return "the server ignores ranges"
        }
        return answer.body.count == range.count ? nil : "\(answer.body.count) bytes came where \(range.count) were asked for"
    }

    /// Refuses bytes of another version: a server may not know `If-Match`.
    private func checkIdentity(_ answer: Answer) throws {
        if let total = answer.header("content-range")?.split(separator: "/").last.flatMap({ Int($0) }), total != byteCount {
            throw RemoteFailure.changed(path, reason: "it has \(total) bytes now, and had \(byteCount)")
        }
        guard isTagged else { return }
        let names = ["etag", "last-modified"].compactMap { answer.header($0) }
        guard names.contains(identity) else {
            throw RemoteFailure.changed(path, reason: "it was \(identity) and is \(names.first ?? "without a name")")
        }
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
