import Foundation
import Runtime
import StrictJSON

/// The part of a hub's interface that reading needs.
struct Hub: Sendable {
    private let environment: RemoteEnvironment
    let endpoint: String

    init(_ environment: RemoteEnvironment) {
        self.environment = environment
        endpoint = environment.hubEndpoint
    }

    private func api(_ id: String) -> String { endpoint + "/api/models/" + URLText.encoded(id, keepingSlashes: true) }

    func url(_ id: String, _ commit: String, file: String) -> String {
        "\(endpoint)/\(URLText.encoded(id, keepingSlashes: true))/resolve/\(commit)/\(URLText.encoded(file, keepingSlashes: true))"
    }

    /// Whether a URL is the hub's own, and not of the store behind it: a mirror sends on to the hub that it mirrors.
    func isOwn(_ url: String) -> Bool {
        guard let origin = URLText.origin(url) else { return false }
        return origin == URLText.origin(endpoint) || HubAddress.hosts.contains(origin)
    }

    /// Who asks; for the hub's own hosts only.
    func authorization(for url: String) -> [(name: String, value: String)] {
        guard isOwn(url), let token = environment.hubToken else { return [] }
        return [("Authorization", "Bearer " + token)]
    }

    private func ask(_ url: String, _ path: String) throws -> Answer {
        var place = url
        // A repository that was renamed is found under its new name.
        for _ in 0..<Self.redirectLimit {
            let answer: Answer
            do {
                answer = try Transport.shared.ask(Exchange(url: place, headers: authorization(for: place)))
            } catch RemoteFailure.unreachable(_, let reason) {
                throw RemoteFailure.unreachable(path, reason: "\(endpoint): \(reason)")
            }
            if answer.status == 200 { return answer }
            guard (300..<400).contains(answer.status), let next = answer.header("location").flatMap({ URLText.joined(place, $0) }) else {
                throw refusal(answer, path)
            }
            place = next
        }
        throw RemoteFailure.answer(path, reason: "\(endpoint) redirects in circles")
    }

    static let redirectLimit = 8

    /// What the hub's refusal means (huggingface_hub: hf_raise_for_status).
    func refusal(_ answer: Answer, _ path: String) -> RemoteFailure {
        let said = answer.header("x-error-message").map { " (\"\($0.prefix(200))\")" } ?? ""
        let token = environment.hubToken == nil ? "set HF_TOKEN to a token that may read it" : "the token that is set may not read it"
        if answer.status == 401, said.contains("Invalid credentials") {
            return .missing(path, reason: "the token that is set is no good\(said): log in again, or unset HF_TOKEN for what anyone may read")
        }
        switch (answer.header("x-error-code"), answer.status) {
        case ("GatedRepo", _): return .missing(path, reason: "the repository is gated: accept its terms on its page, and \(token)\(said)")
        case ("RevisionNotFound", _): return .missing(path, reason: "the repository has no such revision\(said)")
        case ("EntryNotFound", _): return .missing(path, reason: "the repository has no such file\(said)")
        case ("RepoNotFound", _), (_, 401), (_, 403), (_, 404):
            return .missing(path, reason: "\(endpoint) has no such repository, or it is private: \(token)\(said)")
        default: return .answer(path, reason: "\(endpoint) answered \(answer.status)\(said)\(answer.requestNumber)")
        }
    }

    func commit(_ id: String, _ revision: String, _ path: String) throws -> String {
        let answer = try ask(api(id) + "/revision/" + URLText.encoded(revision), path)
        guard let value = try? JSONValue(parsing: answer.body), let commit = value["sha"]?.string, isCommit(commit) else {
            throw RemoteFailure.answer(path, reason: "\(endpoint) does not answer as a hub does; is HF_ENDPOINT right?")
        }
        return commit
    }

    /// Pages of a listing, far more than any repository has.
    private static let pageLimit = 1000

    func tree(_ id: String, _ commit: String, _ path: String) throws -> [String: HubRepository.File] {
        var files: [String: HubRepository.File] = [:]
        var next: String? = api(id) + "/tree/" + commit + "?recursive=true&expand=false"
        var pages = 0
        while let url = next {
            pages += 1
            guard pages <= Self.pageLimit else { throw RemoteFailure.answer(path, reason: "the listing has no end") }
            let answer = try ask(url, path)
            guard let entries = (try? JSONValue(parsing: answer.body))?.array else {
                throw RemoteFailure.answer(path, reason: "the listing of \(endpoint) is no JSON array")
            }
            for entry in entries where entry["type"]?.string == "file" {
                guard let name = entry["path"]?.string, let oid = entry["oid"]?.string, let size = entry["lfs"]?["size"]?.int ?? entry["size"]?.int,
                    size >= 0, size <= RemoteFile.sizeLimit,
                    !name.split(separator: "/", omittingEmptySubsequences: false).contains(where: { $0.isEmpty || $0 == "." || $0 == ".." })
                else { throw RemoteFailure.answer(path, reason: "the listing of \(endpoint) has an entry without name, size or hash") }
                let sha256 = entry["lfs"]?["oid"]?.string.map { $0.hasPrefix("sha256:") ? String($0.dropFirst(7)) : $0 }
                files[name] = HubRepository.File(size: size, sha256: sha256, oid: oid)
            }
            next = try Self.nextPage(answer).map { link in
                guard let joined = URLText.joined(url, link) else { throw RemoteFailure.answer(path, reason: "the listing goes on at \"\(link)\"") }
                return rewritten(joined)
            }
        }
        return files
    }

    /// A mirror may pass on links to the hub it mirrors.
    private func rewritten(_ url: String) -> String {
        guard let origin = URLText.origin(url), origin == "https://huggingface.co", origin != URLText.origin(endpoint) else { return url }
        return endpoint + url.dropFirst(origin.count)
    }

    /// `Link: <...>; rel="next"`.
    private static func nextPage(_ answer: Answer) -> String? {
        for link in answer.headers.filter({ $0.name == "link" }).flatMap({ $0.value.split(separator: ",") }) where link.contains("rel=\"next\"") {
            if let start = link.firstIndex(of: "<"), let end = link.firstIndex(of: ">"), start < end {
                return String(link[link.index(after: start)..<end])
            }
        }
        return nil
    }
}
