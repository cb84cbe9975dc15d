import Foundation
import Runtime
import StrictJSON
import Tensors

/// A directory of a web server that has an index or a single tensor file. There is no listing: names are those that the index says and those that
/// checkpoints usually have, as far as the server has them.
package struct WebDirectory: RemoteDirectory {
    package let path: String
    let files: [String: RemoteFile]

    /// Small files of a checkpoint; beside them every tensor file that an index names.
    private static let usual = [
        "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
        "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
        "hf_quant_config.json", "quantize_config.json", "quant_config.json", "params.json", "model.safetensors", "consolidated.safetensors",
    ]
    private static let indexes = ["model.safetensors.index.json", "consolidated.safetensors.index.json"]

    /// - Parameter url: of a directory, of an index, or of a tensor file.
    package static func find(_ url: String, pool: @autoclosure () -> BlockPool = .shared) throws -> (directory: any SourceDirectory, name: String?) {
        let bare = String(url.prefix { $0 != "#" })
        guard let origin = URLText.origin(bare) else { throw RemoteFailure.address(url, reason: "this URL has no host") }
        guard !bare.contains("?") else {
            throw RemoteFailure.address(
                String(bare.prefix { $0 != "?" }), reason: "a URL with a query names one file for one use; give the directory's, or download it")
        }
        let last = bare.dropFirst(origin.count).split(separator: "/").last.map(String.init) ?? ""
        let isFile =
            !bare.hasSuffix("/") && last.contains(".")
            && [".safetensors", ".gguf", ".json", ".bin", ".pt", ".pth", ".zst"].contains { last.hasSuffix($0) }
        var base = isFile ? String(bare.dropLast(last.count)) : bare
        while base.hasSuffix("/") { base.removeLast() }
        let shared = pool()
        var files: [String: RemoteFile] = [:]
        func look(_ names: [String], areWanted: Bool) throws {
            let found = Lock<[String: RemoteFile]>([:])
            let base = base
            try ParallelLoop.run(count: names.count, workers: 16) {
            } body: { index, _ in
                let name = names[index]
                guard
                    let file = try Self.file(
                        base + "/" + URLText.encoded(name, keepingSlashes: true), path: base + "/" + name, isWanted: areWanted, shared)
                else {
                    return
                }
                found.withLock { $0[name] = file }
            }
            files.merge(found.withLock { $0 }) { $1 }
        }
        try look(usual + indexes, areWanted: false)
        // Who may not read the configuration is not told that there is none.
        try look(["config.json"], areWanted: !isFile)
        if isFile { try look([last.removingPercentEncoding ?? last], areWanted: true) }
        let index = isFile && last.hasSuffix(".json") ? last : indexes.first { files[$0] != nil }
        if let index, let file = files[index] {
            guard file.byteCount <= 512 << 20 else { throw RemoteFailure.answer(file.path, reason: "an index of \(file.byteCount) bytes is none") }
            let bytes = try file.read(file.byteCount, at: 0)
            // What is wrong with it is said by who reads it in earnest.
            let map = (try? JSONValue(parsing: bytes))?["weight_map"]?.object
            let names = Set(map?.members.compactMap(\.value.string) ?? []).filter { !$0.contains("/") && files[$0] == nil }
            try look(names.sorted(), areWanted: true)
        }
        let directory = WebDirectory(path: base, files: files)
        guard isFile else {
            guard !files.isEmpty else { throw RemoteFailure.missing(base, reason: "there is neither an index nor a model.safetensors") }
            return (directory, nil)
        }
        guard files[last.removingPercentEncoding ?? last] != nil else { throw RemoteFailure.missing(bare, reason: "there is no such file") }
        return (directory, last.removingPercentEncoding ?? last)
    }

    private static let redirectLimit = 8

    /// Size and identity of a file; nil if the server has none.
    /// - Parameter isWanted: the user or an index names it; other names are only tried.
    private static func file(_ url: String, path: String, isWanted: Bool, _ pool: BlockPool) throws -> RemoteFile? {
        var place = url
        for _ in 0..<redirectLimit {
            var answer = try Transport.shared.ask(Exchange(url: place, isHead: true))
            // A URL that was signed for GET, a server without HEAD: one byte says as much.
            if [400, 403, 405, 501].contains(answer.status) {
                answer = try Transport.shared.ask(Exchange(url: place, headers: [("Range", "bytes=0-0")], limit: 1 << 20))
            }
            switch answer.status {
            case 200, 206:
                // What a server says instead of "not found".
                if answer.header("content-type")?.lowercased().hasPrefix("text/html") == true { return nil }
                let total =
                    answer.status == 206
                    ? answer.header("content-range")?.split(separator: "/").last.map(String.init) : answer.header("content-length")
                guard let size = total.flatMap(Int.init), size >= 0, size <= RemoteFile.sizeLimit else {
                    if !isWanted { return nil }
                    throw RemoteFailure.answer(path, reason: "the server does not say how long the file is")
                }
                let tag = answer.header("etag")
                guard let identity = tag ?? answer.header("last-modified") else {
                    if !isWanted { return nil }
                    throw RemoteFailure.answer(path, reason: "the server names neither an ETag nor a date, so that a replaced file could not be told")
                }
                return RemoteFile(
                    path, byteCount: size, identity: identity, isTagged: true, server: "", location: WebLocation(url: url, place: place, tag: tag),
                    pool: pool)
            case 301, 302, 303, 307, 308:
                guard let next = answer.header("location").flatMap({ URLText.joined(place, $0) }) else {
                    throw RemoteFailure.answer(path, reason: "the server redirects nowhere")
                }
                place = next
            case 404, 410: return nil
            case 401, 403:
                if !isWanted { return nil }
                throw RemoteFailure.missing(path, reason: "the server refuses (\(answer.status)); download it first if it wants to know who asks")
            default:
                if !isWanted { return nil }
                throw RemoteFailure.answer(path, reason: "the server answered \(answer.status)\(answer.requestNumber)")
            }
        }
        throw RemoteFailure.answer(path, reason: "the server redirects in circles")
    }

    package func conclude() -> [String] { ["\(path): the server publishes no checksums; what was read has the right lengths"] }
}

/// A file under its own URL. Where that leads is found out again when the last place refuses; a further redirect is followed by who reads.
private final class WebLocation: RemoteLocation {
    private let url: String
    private let tag: String?
    private let place: Lock<String>

    init(url: String, place: String, tag: String?) {
        self.url = url
        self.tag = tag
        self.place = Lock(place)
    }

    func request(insteadOf refused: String?) throws -> (url: String, headers: [(name: String, value: String)]) {
        let target = place.withLock { place in
            if place == refused { place = url }
            return place
        }
        // A replaced file gives 412 instead of bytes of another one. Weak tags cannot be compared so.
        return (target, tag.map { $0.hasPrefix("W/") ? [] : [("If-Match", $0)] } ?? [])
    }
}
