/// A repository of a Hugging Face hub, or part of it: `hf://[models/]ORG/NAME[@REVISION][/PATH]`, or the URL of its page.
package struct HubAddress: Sendable, Equatable {
    /// `ORG/NAME`.
    package var id: String
    /// Branch, tag, commit, `refs/pr/N`; nil for `main`.
    package var revision: String?
    /// A file, or a directory of the repository; empty for the whole.
    package var path: String

    package static let scheme = "hf://"

    /// - Returns: nil if `text` is no such address at all.
    /// - Throws: ``RemoteFailure/address(_:reason:)`` if it is a wrong one.
    package init?(_ text: String, environment: RemoteEnvironment) throws(RemoteFailure) {
        if text.hasPrefix(Self.scheme) {
            try self.init(uri: text)
        } else if text.hasPrefix(environment.hubEndpoint + "/") {
            try self.init(page: text, below: environment.hubEndpoint)
        } else if let origin = URLText.origin(text), Self.hosts.contains(origin.replacing(/^http:/, with: "https:")) {
            try self.init(page: text, below: String(text.prefix(origin.count)))
        } else {
            return nil
        }
    }

    /// Where pasted addresses come from (huggingface_hub: utils/_hf_uris.py).
    static let hosts: Set<String> = [
        "https://huggingface.co", "https://hf.co", "https://hub-ci.huggingface.co", "https://www.huggingface.co",
    ]

    private init(uri text: String) throws(RemoteFailure) {
        var rest = text.dropFirst(Self.scheme.count)
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        for type in ["datasets", "spaces", "kernels", "buckets"] where rest.hasPrefix(type + "/") {
            throw .address(text, reason: "this names one of the hub's \(type); models are hf://ORG/NAME")
        }
        if rest.hasPrefix("models/") { rest = rest.dropFirst("models/".count) }
        let form = "a model is hf://ORG/NAME, hf://ORG/NAME@REVISION, or that and /PATH"
        guard let slash = rest.firstIndex(of: "/") else { throw .address(text, reason: form) }
        let tail = rest[rest.index(after: slash)...]
        let name = tail.prefix { $0 != "@" && $0 != "/" }
        id = rest[..<slash] + "/" + name
        var after = tail.dropFirst(name.count)
        revision = nil
        if after.hasPrefix("@") {
            after = after.dropFirst()
            // These revisions have slashes of their own.
            let count =
                if let match = after.prefixMatch(of: /refs\/(pr|convert)\/[^\/]+/) { match.output.0.count } else { after.prefix { $0 != "/" }.count }
            guard let decoded = String(after.prefix(count)).removingPercentEncoding, !decoded.isEmpty else {
                throw .address(text, reason: "the revision after @ is empty")
            }
            revision = decoded
            after = after.dropFirst(count)
        }
        path = String(after.dropFirst())
        try check(text, form)
    }

    /// `https://huggingface.co/ORG/NAME[/(tree|blob|resolve|raw|blame)/REVISION[/PATH]]`.
    private init(page text: String, below endpoint: String) throws(RemoteFailure) {
        let form = "of a hub's pages only those of models and their files can be read: \(endpoint)/ORG/NAME[/tree/REVISION[/PATH]]"
        let parts = text.dropFirst(endpoint.count).prefix { $0 != "?" && $0 != "#" }.split(separator: "/").compactMap {
            String($0).removingPercentEncoding
        }
        guard parts.count >= 2, !["datasets", "spaces", "api", "docs", "models", "collections", "papers", "blog"].contains(parts[0]) else {
            throw .address(text, reason: form)
        }
        id = parts[0] + "/" + parts[1]
        revision = nil
        path = ""
        if parts.count > 2 {
            guard ["tree", "blob", "resolve", "raw", "blame"].contains(parts[2]), parts.count > 3 else { throw .address(text, reason: form) }
            let count = parts[3] == "refs" && parts.count > 5 ? 3 : 1
            revision = parts[3..<3 + count].joined(separator: "/")
            path = parts[(3 + count)...].joined(separator: "/")
        }
        try check(text, form)
    }

    private func check(_ text: String, _ form: String) throws(RemoteFailure) {
        let names = id.split(separator: "/", omittingEmptySubsequences: false)
        let isName = names.count == 2 && names.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." && $0.utf8.allSatisfy(Self.isNameByte) }
        guard isName else { throw .address(text, reason: form) }
        let places = path.split(separator: "/", omittingEmptySubsequences: false)
        if !path.isEmpty, places.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }) {
            throw .address(text, reason: "the path in the repository has empty parts")
        }
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
            true
        default: false
        }
    }
}

/// Forty digits: a commit by its whole name.
func isCommit(_ text: String) -> Bool {
    text.utf8.count == 40 && text.utf8.allSatisfy { ("0"..."9").contains(Character(.init($0))) || ("a"..."f").contains(Character(.init($0))) }
}
