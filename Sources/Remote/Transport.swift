import AsyncHTTPClient
import Foundation
import NIOCore
import NIOSSL
import Runtime

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

/// HTTP with patience: answers that pass are asked for again, after the time that the server names or a growing one.
///
/// Redirects are never followed here: whoever asks knows which host may see a token.
package final class Transport: Sendable {
    package static let shared = Transport(.process)

    /// Attempts at one exchange; with waits of up to 8 s between them.
    static let attempts = 8
    /// A server that wants a longer wait than this is given up.
    static let longestWait = 900.0

    private let environment: RemoteEnvironment
    /// A client for each proxy, the empty text for none.
    private let clients = Lock<[String: HTTPClient]>([:])

    package init(_ environment: RemoteEnvironment) { self.environment = environment }

    deinit { clients.withLock { $0.values.forEach { try? $0.syncShutdown() } } }

    /// Asks until there is an answer that stays.
    /// - Parameter flaw: what is wrong with an answer that another attempt may mend.
    package func ask(_ exchange: Exchange, flaw: (Answer) -> String? = { _ in nil }) throws -> Answer {
        var reason = ""
        for attempt in 0..<Self.attempts {
            var wait: Double?
            do {
                let answer = try askOnce(exchange)
                if !answer.isPassing {
                    guard let found = flaw(answer) else { return answer }
                    reason = found
                } else {
                    reason = "the server answered \(answer.status)\(answer.requestNumber)"
                    wait = answer.wait()
                }
            } catch let error as RemoteFailure {
                throw error
            } catch let error as HTTPClientError where Self.isFinal(error) {
                throw RemoteFailure.address(exchange.name, reason: "this cannot be asked for (\(error.shortDescription))")
            } catch let error as ResponseAccumulator.ResponseTooBigError {
                reason = "the answer is longer than the \(error.maxBodySize) bytes that it may have"
            } catch {
                reason = "no answer (\(Self.sentence(error)))"
            }
            if attempt + 1 < Self.attempts { try pause(wait ?? Self.growing(attempt), exchange, reason) }
        }
        throw RemoteFailure.unreachable(exchange.name, reason: "\(reason), \(Self.attempts) times")
    }

    private static func isFinal(_ error: HTTPClientError) -> Bool {
        let text = error.shortDescription
        return ["Invalid URL", "Empty host", "Empty scheme", "Unsupported scheme", "Invalid header", "Proxy authentication"].contains {
            text.hasPrefix($0)
        }
    }

    private static func sentence(_ error: any Error) -> String {
        // Never the description: it has the headers that it does not like.
        let text = (error as? HTTPClientError)?.shortDescription ?? "\(error)"
        return text.count > 200 ? text.prefix(200) + "..." : text
    }

    /// Half a second and twice as much each time up to 8, with chance in it so that many parts do not ask at once.
    private static func growing(_ attempt: Int) -> Double { min(8, 0.5 * pow(2, Double(attempt))) * Double.random(in: 0.5...1) }

    private func pause(_ seconds: Double, _ exchange: Exchange, _ reason: String) throws {
        guard seconds <= Self.longestWait else {
            throw RemoteFailure.unreachable(exchange.name, reason: "\(reason) and wants to be left alone for \(Int(min(seconds, 1e9))) s")
        }
        Thread.sleep(forTimeInterval: seconds)
    }

    private func askOnce(_ exchange: Exchange) throws -> Answer {
        var request = try HTTPClient.Request(url: exchange.url, method: exchange.isHead ? .HEAD : .GET)
        request.headers.add(name: "User-Agent", value: "recast")
        // Compressed answers hide lengths.
        request.headers.add(name: "Accept-Encoding", value: "identity")
        for (name, value) in exchange.headers { request.headers.replaceOrAdd(name: name, value: value) }
        let client = try client(for: request)
        let accumulator = ResponseAccumulator(request: request, maxBodySize: exchange.limit)
        let response = try client.execute(request: request, delegate: accumulator, deadline: .now() + .minutes(10)).wait()
        return Answer(
            status: Int(response.status.code), headers: response.headers.map { ($0.name, $0.value) },
            body: response.body.map { Array($0.readableBytesView) } ?? [])
    }

    private func client(for request: HTTPClient.Request) throws -> HTTPClient {
        let proxy = environment.proxy(forScheme: request.scheme, host: request.host) ?? ""
        return try clients.withLock { clients in
            if let client = clients[proxy] { return client }
            var configuration = HTTPClient.Configuration()
            configuration.redirectConfiguration = .disallow
            configuration.httpVersion = .http1Only
            configuration.timeout = .init(connect: .seconds(10), read: .seconds(30), write: .seconds(30))
            configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 64
            if let path = environment.certificates {
                var security = TLSConfiguration.makeClientConfiguration()
                guard let roots = try? NIOSSLCertificate.fromPEMFile(environment.expanded(path)) else {
                    throw RemoteFailure.address(path, reason: "the file of certificates that the environment names cannot be read as PEM")
                }
                security.additionalTrustRoots = [.certificates(roots)]
                configuration.tlsConfiguration = security
            }
            if !proxy.isEmpty { configuration.proxy = try Self.proxy(proxy) }
            let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
            clients[proxy] = client
            return client
        }
    }

    /// `http://user:password@host:port`, or without the scheme; `socks5://host:port`. What is wrong with it is said without it: it holds a password.
    private static func proxy(_ text: String) throws -> HTTPClient.Configuration.Proxy {
        guard let parts = URLComponents(string: text.contains("://") ? text : "http://" + text), let host = parts.host, !host.isEmpty else {
            throw RemoteFailure.address(
                "proxy", reason: "what the environment names is no URL; are special characters of its password written as %XX?")
        }
        guard parts.scheme != "https" else {
            throw RemoteFailure.address("proxy", reason: "the environment names one that is spoken to by TLS (https://), which is not known here")
        }
        if parts.scheme?.hasPrefix("socks") == true { return .socksServer(host: host, port: parts.port ?? 1080) }
        let user = parts.user.map { HTTPClient.Authorization.basic(username: $0, password: parts.password ?? "") }
        return .server(host: host, port: parts.port ?? 3128, authorization: user)
    }
}
