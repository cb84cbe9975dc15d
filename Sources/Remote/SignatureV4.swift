import Crypto
import Foundation
import Runtime

/// Signs requests to S3 and to what speaks its language: HMAC-SHA256 over a canonical form of the request, with a key derived from the date, the
/// region and the service (AWS: IAM user guide, "Create a signed AWS API request").
package struct SignatureV4: Sendable {
    package var accessKey: String
    package var secretKey: String
    package var sessionToken: String?
    package var region: String

    package init(accessKey: String, secretKey: String, sessionToken: String? = nil, region: String) {
        self.accessKey = accessKey
        self.secretKey = secretKey
        self.sessionToken = sessionToken
        self.region = region
    }

    /// SHA-256 of no bytes: what requests to read carry.
    private static let emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    /// The headers that make a request to read one of the owner of the key.
    ///
    /// - Parameters:
    ///   - url: path and query as they will be sent, percent-encoded; the query's parameters in the order of their names.
    ///   - date: within a quarter of an hour of the server's clock.
    package func headers(_ method: String, _ url: String, service: String = "s3", date: Date = Date()) -> [(name: String, value: String)] {
        let origin = URLText.origin(url) ?? ""
        let host = String(origin[(origin.range(of: "://")?.upperBound ?? origin.startIndex)...])
        let rest = url.dropFirst(url.range(of: "://").map { url.distance(from: url.startIndex, to: $0.upperBound) } ?? 0).drop {
            $0 != "/" && $0 != "?"
        }
        let path = rest.prefix { $0 != "?" }
        let query = rest.dropFirst(path.count + 1)
        let stamp = Self.stamp(date), day = String(stamp.prefix(8))
        var signed: [(name: String, value: String)] = [("host", host), ("x-amz-content-sha256", Self.emptyHash), ("x-amz-date", stamp)]
        if let sessionToken { signed.append(("x-amz-security-token", sessionToken)) }
        let names = signed.map(\.name).joined(separator: ";")
        let canonical = [
            method, path.isEmpty ? "/" : String(path), String(query), signed.map { "\($0.name):\($0.value)\n" }.joined(), names, Self.emptyHash,
        ].joined(separator: "\n")
        let scope = "\(day)/\(region)/\(service)/aws4_request"
        let text = "AWS4-HMAC-SHA256\n\(stamp)\n\(scope)\n\(SHA256.hash(data: Data(canonical.utf8)).hexadecimal)"
        var key = SymmetricKey(data: Data(("AWS4" + secretKey).utf8))
        for part in [day, region, service, "aws4_request"] {
            key = SymmetricKey(data: Data(HMAC<SHA256>.authenticationCode(for: Data(part.utf8), using: key)))
        }
        let signature = HMAC<SHA256>.authenticationCode(for: Data(text.utf8), using: key).hexadecimal
        let credential = "AWS4-HMAC-SHA256 Credential=\(accessKey)/\(scope), SignedHeaders=\(names), Signature=\(signature)"
        return signed + [("Authorization", credential)]
    }

    /// `20130524T000000Z`.
    static func stamp(_ date: Date) -> String {
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = .gmt
        let parts = calendar.dateComponents([.year, .month, .day, .hour, .minute, .second], from: date)
        func digits(_ value: Int?, _ count: Int = 2) -> String { String(String(10_000 + (value ?? 0)).suffix(count)) }
        return digits(parts.year, 4) + digits(parts.month) + digits(parts.day) + "T" + digits(parts.hour) + digits(parts.minute)
            + digits(parts.second)
            + "Z"
    }
}
