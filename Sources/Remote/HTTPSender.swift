#if Network
    import AsyncHTTPClient
    import Foundation
    import NIOCore
    import NIOHTTP1
    import NIOSSL
    import Runtime

    /// Sends one request and waits for the answer: connections are kept, proxies and certificates are those of the environment.
    final class HTTPSender: Sendable {
        enum Failure: Error {
            /// Another attempt would end in the same way.
            case lasting(String)
            case passing(String)
        }

        private let environment: RemoteEnvironment
        /// A client for each proxy, the empty text for none.
        private let clients = Lock<[String: HTTPClient]>([:])

        init(_ environment: RemoteEnvironment) { self.environment = environment }

        deinit { clients.withLock { $0.values.forEach { try? $0.syncShutdown() } } }

        /// - Throws: ``Failure``, or a ``RemoteFailure`` about the environment.
        func send(_ exchange: Exchange) throws -> Answer {
            do {
                return try answer(to: exchange)
            } catch let error as RemoteFailure {
                throw error
            } catch let error as ResponseAccumulator.ResponseTooBigError {
                throw Failure.passing("the answer is longer than the \(error.maxBodySize) bytes that it may have")
            } catch let error as HTTPClientError {
                // Never the description: it has the headers that it does not like.
                let text = error.shortDescription
                let lasting = ["Invalid URL", "Empty host", "Empty scheme", "Unsupported scheme", "Invalid header", "Proxy authentication"]
                throw lasting.contains { text.hasPrefix($0) } ? Failure.lasting(text) : .passing("no answer (\(text))")
            } catch {
                throw Failure.passing("no answer (\("\(error)".prefix(200)))")
            }
        }

        private func answer(to exchange: Exchange) throws -> Answer {
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
#else
    /// A build without the trait `Network` asks nobody.
    final class HTTPSender: Sendable {
        enum Failure: Error { case lasting(String), passing(String) }

        init(_ environment: RemoteEnvironment) {}

        func send(_ exchange: Exchange) throws -> Answer {
            throw RemoteFailure.address(exchange.name, reason: "this recast was built without sources over the network (the trait Network)")
        }
    }
#endif
