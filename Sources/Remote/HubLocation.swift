import Foundation
import Runtime

/// Asks a hub where the bytes of one file are, once for as long as the answer holds.
final class HubLocation: RemoteLocation {
    private struct Found {
        var url: String
        var headers: [(name: String, value: String)]
        var expiry: Date?
    }

    private let hub: Hub
    private let id: String
    private let commit: String
    private let file: String
    private let size: Int
    private let sha256: String?
    private let path: String
    private let found = Lock<(found: Found?, time: Date)>((nil, .distantPast))

    init(hub: Hub, id: String, commit: String, file: String, size: Int, sha256: String?, path: String) {
        self.hub = hub
        self.id = id
        self.commit = commit
        self.file = file
        self.size = size
        self.sha256 = sha256
        self.path = path
    }

    /// One thread asks, the others wait for its answer. A URL that is refused may have been renewed by another thread meanwhile; one that will
    /// soon be is renewed before, but not again and again where all have short lives.
    func request(insteadOf refused: String?) throws -> (url: String, headers: [(name: String, value: String)]) {
        try found.withLock { state in
            let isSpent = state.found?.expiry.map { $0.timeIntervalSinceNow < 60 && state.time.timeIntervalSinceNow < -30 } ?? false
            if let found = state.found, !isSpent, found.url != refused { return (found.url, found.headers) }
            let found = try resolve()
            state = (found, Date())
            return (found.url, found.headers)
        }
    }

    private func resolve() throws -> Found {
        var url = hub.url(id, commit, file: file)
        for _ in 0..<Hub.redirectLimit {
            let answer: Answer
            do {
                answer = try Transport.shared.ask(Exchange(url: url, isHead: true, headers: hub.authorization(for: url)))
            } catch RemoteFailure.unreachable(_, let reason) {
                throw RemoteFailure.unreachable(path, reason: reason)
            }
            guard answer.status == 200 || (300..<400).contains(answer.status) else { throw hub.refusal(answer, path) }
            if let other = answer.header("x-repo-commit"), other != commit {
                throw RemoteFailure.changed(path, reason: "the hub answers with commit \(other)")
            }
            if let length = answer.header("x-linked-size").flatMap(Int.init), length != size {
                throw RemoteFailure.changed(path, reason: "it has \(length) bytes, the listing says \(size)")
            }
            let tag = answer.header("x-linked-etag").map { $0.filter { $0 != "\"" }.replacing("W/", with: "") }
            if let tag, let sha256, tag.utf8.count == 64, tag != sha256 {
                throw RemoteFailure.changed(path, reason: "its hash is \(tag), the listing says \(sha256)")
            }
            guard let location = answer.header("location"), answer.status != 200 else { return Found(url: url, headers: hub.authorization(for: url)) }
            guard let next = URLText.joined(url, location) else {
                throw RemoteFailure.answer(path, reason: "the hub redirects to \"\(location.prefix(100))\"")
            }
            // Away from the hub: this is the signed URL, and no one's business but the store's.
            if URLText.origin(next) != URLText.origin(url), !hub.isOwn(next) {
                return Found(url: next, headers: [], expiry: URLText.expiry(of: next))
            }
            url = next
        }
        throw RemoteFailure.answer(path, reason: "the hub redirects in circles")
    }
}
