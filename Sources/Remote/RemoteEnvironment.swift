import Foundation
import Tensors

/// What a user's environment says of sources over the network: the variables of huggingface_hub, of curl and of Recast.
package struct RemoteEnvironment: Sendable {
    private let variables: [String: String]

    package init(_ variables: [String: String]) { self.variables = variables }

    package static var process: RemoteEnvironment { RemoteEnvironment(ProcessInfo.processInfo.environment) }

    /// The first of some variables that is set to something, without blanks around it.
    package subscript(_ names: String...) -> String? {
        names.lazy.compactMap { variables[$0]?.trimmingCharacters(in: .whitespacesAndNewlines) }.first { !$0.isEmpty }
    }

    /// What is sent in a header: wrapped when it was pasted, as often as not.
    package func secret(_ names: String...) -> String? {
        for name in names {
            if let text = variables[name].map(Self.unwrapped), !text.isEmpty { return text }
        }
        return nil
    }

    private static func unwrapped(_ text: String) -> String {
        String(text.trimmingCharacters(in: .whitespacesAndNewlines).unicodeScalars.filter { $0.value >= 0x20 && $0.value != 0x7F })
    }

    /// A path with `~` and `$NAME` in it as the shell would have it: service managers set variables without one.
    package func expanded(_ path: String) -> String {
        let text = path == "~" || path.hasPrefix("~/") ? home + path.dropFirst() : path
        return text.replacing(/\$(?:\{(\w+)\}|(\w+))/) { match in variables[String(match.1 ?? match.2 ?? "")] ?? String(match.0) }
    }

    private func isSet(_ names: String...) -> Bool {
        names.contains { ["1", "ON", "YES", "TRUE"].contains(variables[$0]?.uppercased() ?? "") }
    }

    // MARK: Hub

    /// `HF_ENDPOINT`: scheme, host and port, without a slash at the end.
    package var hubEndpoint: String {
        var endpoint = self["HF_ENDPOINT"] ?? "https://huggingface.co"
        while endpoint.hasSuffix("/") { endpoint.removeLast() }
        return endpoint
    }

    package var isOffline: Bool { isSet("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") }

    /// Who asks: `HF_TOKEN`, or the file that `hf auth login` wrote. Never printed, never sent to another host than the hub's.
    package var hubToken: String? {
        if isSet("HF_HUB_DISABLE_IMPLICIT_TOKEN") { return nil }
        if let token = secret("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") { return token }
        let path = self["HF_TOKEN_PATH"].map(expanded) ?? hubHome + "/token"
        guard let bytes = try? FileTree.read(path, limit: 1 << 16) else { return nil }
        let token = Self.unwrapped(String(decoding: bytes, as: UTF8.self))
        return token.isEmpty ? nil : token
    }

    package var home: String { self["HOME"] ?? "." }
    private var caches: String { self["XDG_CACHE_HOME"].map(expanded) ?? home + "/.cache" }
    private var hubHome: String { self["HF_HOME"].map(expanded) ?? caches + "/huggingface" }

    /// The directory of huggingface_hub's cache.
    package var hubCache: String { self["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].map(expanded) ?? hubHome + "/hub" }

    // MARK: Recast

    /// Where Recast keeps what it read over the network; nil for nowhere (`RECAST_CACHE=off`).
    package var blockCache: String? {
        guard let given = self["RECAST_CACHE"] else { return caches + "/recast" }
        return ["off", "none", "0"].contains(given.lowercased()) ? nil : expanded(given)
    }

    // MARK: Proxies

    /// The proxy for a URL, as curl chooses it; nil for none. `HTTP_PROXY` in capitals is not read: in CGI programs a client sets it.
    package func proxy(forScheme scheme: String, host: String) -> String? {
        let given = scheme == "https" ? self["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] : self["http_proxy", "all_proxy", "ALL_PROXY"]
        guard let given else { return nil }
        for pattern in (self["no_proxy", "NO_PROXY"] ?? "").split(separator: ",") {
            let name = pattern.trimmingCharacters(in: .whitespaces).drop { $0 == "." }
            if name == "*" || host == name || (!name.isEmpty && host.hasSuffix("." + name)) { return nil }
        }
        return given
    }

    /// More certificates to trust, in PEM.
    package var certificates: String? { self["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"] }
}
