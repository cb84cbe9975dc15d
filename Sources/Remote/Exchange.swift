import Foundation

/// A request that may be sent again.
package struct Exchange: Sendable {
    package var url: String
    /// Whether only the headers of the answer are wanted.
    package var isHead = false
    package var headers: [(name: String, value: String)] = []
    /// A longer answer is refused.
    package var limit = 64 << 20

    /// What to name in messages: signatures and tokens stay in queries.
    package var name: String { String(url.prefix { $0 != "?" }) }
}

/// What came back.
package struct Answer: Sendable {
    package var status: Int
    /// Names in small letters.
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]

    package init(status: Int, headers: [(name: String, value: String)], body: [UInt8]) {
        self.status = status
        self.headers = headers.map { ($0.name.lowercased(), $0.value) }
        self.body = body
    }

    /// - Parameter name: in small letters.
    package func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }

    /// What a server's support asks for.
    package var requestNumber: String {
        ["x-request-id", "x-amzn-trace-id", "x-amz-request-id", "x-amz-cf-id"].lazy.compactMap { self.header($0) }.first.map { " (request \($0))" }
            ?? ""
    }

    /// Statuses that another attempt may not meet (huggingface_hub: http_backoff).
    var isPassing: Bool { [408, 429, 500, 502, 503, 504].contains(status) }

    /// Seconds until the server wants to be asked again: `RateLimit: "resolvers";r=0;t=123`, or `Retry-After` as a number or a date.
    package func wait(now: Date = Date()) -> Double? {
        if let limit = header("ratelimit") {
            var fields: [Substring: Double] = [:]
            for field in limit.split(separator: ";") {
                let pair = field.split(separator: "=", maxSplits: 1)
                if pair.count == 2 { fields[Substring(pair[0].trimmingCharacters(in: .whitespaces))] = Double(pair[1]) }
            }
            if fields["r"] == 0, let seconds = fields["t"], seconds >= 0, seconds.isFinite { return seconds + 1 }
        }
        guard let text = header("retry-after") else { return nil }
        if let seconds = Double(text) { return seconds.isFinite && seconds >= 0 ? seconds + 1 : nil }
        let format = DateFormatter()
        format.locale = Locale(identifier: "en_US_POSIX")
        format.timeZone = TimeZone(identifier: "GMT")
        format.dateFormat = "EEE, dd MMM yyyy HH:mm:ss zzz"
        return format.date(from: text).map { max(0, $0.timeIntervalSince(now)) + 1 }
    }
}
