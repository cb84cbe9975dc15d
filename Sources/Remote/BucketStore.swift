import Foundation
import Runtime

/// The part of S3's interface that reading needs.
final class BucketStore: Sendable {
    struct Object: Sendable {
        var key: String
        var size: Int
        /// With its quotes.
        var tag: String
    }

    let bucket: String
    private let account: BucketAccount
    /// The bucket's own, once a refusal has named it.
    private let region: Lock<String>

    init(_ environment: RemoteEnvironment, _ bucket: String) throws {
        self.bucket = bucket
        account = try BucketAccount(environment)
        region = Lock(account.region)
    }

    /// Where the bucket is: by path at other stores, by host name at AWS, whose certificate does not cover names with dots.
    func base() -> String {
        if let endpoint = account.endpoint { return endpoint + "/" + bucket }
        let region = region.withLock { $0 }
        let host = "s3.\(region).amazonaws.com" + (region.hasPrefix("cn-") ? ".cn" : "")
        return bucket.contains(".") ? "https://\(host)/\(bucket)" : "https://\(bucket).\(host)"
    }

    func request(_ method: String, _ key: String, query: String = "") -> (url: String, headers: [(name: String, value: String)]) {
        let url = base() + "/" + URLText.encoded(key, keepingSlashes: true) + (query.isEmpty ? "" : "?" + query)
        return (url, account.signature(region: region.withLock { $0 })?.headers(method, url) ?? [])
    }

    /// Pages of a listing: a thousand objects each.
    private static let pageLimit = 1000

    /// The objects under a prefix that no further slash follows.
    func list(_ prefix: String, path: String) throws -> [Object] {
        var objects: [Object] = []
        var token: String?
        var hasMoved = false
        for _ in 0..<Self.pageLimit {
            let query =
                (token.map { "continuation-token=\(URLText.encoded($0))&" } ?? "") + "delimiter=%2F&list-type=2&prefix=\(URLText.encoded(prefix))"
            let (url, headers) = request("GET", "", query: query)
            let answer = try Transport.shared.ask(Exchange(url: url, headers: headers))
            if answer.status != 200, let home = answer.header("x-amz-bucket-region"), home != region.withLock({ $0 }), !hasMoved {
                region.withLock { $0 = home }
                hasMoved = true
                continue
            }
            guard answer.status == 200 else { throw refusal(answer, path) }
            let text = String(decoding: answer.body, as: UTF8.self)
            guard text.contains("<ListBucketResult") else {
                throw RemoteFailure.answer(path, reason: "the store does not answer with a listing; is AWS_ENDPOINT_URL right?")
            }
            for entry in Self.elements("Contents", of: text) {
                guard let key = Self.elements("Key", of: entry).first, let size = Self.elements("Size", of: entry).first.flatMap({ Int($0) }),
                    size >= 0, size <= RemoteFile.sizeLimit,
                    let tag = Self.elements("ETag", of: entry).first, !tag.isEmpty
                else { throw RemoteFailure.answer(path, reason: "the listing has an object without name, size or ETag") }
                let name = Self.plain(key)
                guard name.hasPrefix(prefix), !name.dropFirst(prefix.count).contains("/"), name != prefix || !prefix.hasSuffix("/") else { continue }
                objects.append(Object(key: name, size: size, tag: Self.plain(tag)))
            }
            guard Self.elements("IsTruncated", of: text).first == "true" else { return objects }
            guard let next = Self.elements("NextContinuationToken", of: text).first else {
                throw RemoteFailure.answer(path, reason: "the listing goes on, and does not say where")
            }
            token = Self.plain(next)
        }
        throw RemoteFailure.answer(path, reason: "the listing has no end")
    }

    private func refusal(_ answer: Answer, _ path: String) -> RemoteFailure {
        let code = Self.code(of: answer) ?? "\(answer.status)"
        let advice =
            account.isAnonymous
            ? "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws configure export-credentials --format env` prints them)"
            : "are the credentials, the region (\(region.withLock { $0 })) and the clock right?"
        switch answer.status {
        case 404: return .missing(path, reason: "the store has no such bucket (\(code))")
        case 301, 400, 401, 403: return .missing(path, reason: "the store refuses (\(code)); \(advice)")
        default: return .answer(path, reason: "the store answered \(answer.status) (\(code))\(answer.requestNumber)")
        }
    }

    /// What a store calls the reason of a refusal: `InvalidObjectState` of an archived object, `RequestTimeTooSkewed`, ...
    static func code(of answer: Answer) -> String? {
        let text = String(decoding: answer.body.prefix(4096), as: UTF8.self)
        return elements("Code", of: text).first.map { String($0.prefix(60)) }
    }

    /// The contents of every `<name>...</name>`, none of which holds another of its name. S3's answers have no attributes but the namespace.
    private static func elements(_ name: String, of text: some StringProtocol) -> [Substring] {
        var found: [Substring] = []
        var rest = Substring(text)
        while let start = rest.range(of: "<\(name)>"), let end = rest.range(of: "</\(name)>", range: start.upperBound..<rest.endIndex) {
            found.append(rest[start.upperBound..<end.lowerBound])
            rest = rest[end.upperBound...]
        }
        return found
    }

    /// A text of XML with its entities undone.
    private static func plain(_ text: Substring) -> String {
        guard text.contains("&") else { return String(text) }
        var result = ""
        var rest = text
        while let start = rest.firstIndex(of: "&"), let end = rest[start...].firstIndex(of: ";") {
            result += rest[..<start]
            let entity = rest[rest.index(after: start)..<end]
            switch entity {
            case "amp": result += "&"
            case "lt": result += "<"
            case "gt": result += ">"
            case "quot": result += "\""
            case "apos": result += "'"
            default:
                let digits = entity.dropFirst(entity.hasPrefix("#x") ? 2 : 1)
                let code = entity.hasPrefix("#") ? UInt32(digits, radix: entity.hasPrefix("#x") ? 16 : 10) : nil
                if let scalar = code.flatMap(Unicode.Scalar.init) { result.unicodeScalars.append(scalar) } else { result += rest[start...end] }
            }
            rest = rest[rest.index(after: end)...]
        }
        return result + rest
    }
}

/// One object, signed for every request anew: a signature holds for minutes.
struct BucketLocation: RemoteLocation {
    let store: BucketStore
    let object: BucketStore.Object

    func request(insteadOf refused: String?) -> (url: String, headers: [(name: String, value: String)]) {
        let (url, headers) = store.request("GET", object.key)
        return (url, headers + [("If-Match", object.tag)])
    }
}
