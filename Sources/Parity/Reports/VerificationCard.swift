import Checkpoints
import Conversion
import Foundation
import StrictJSON
import Tensors
import Yams

/// A verdict to be published beside a checkpoint: what was compared, by which bytes they can be known, with which command,
/// what came out.
struct VerificationCard {
    let verdict: ParityVerdict
    let subject: ParitySubject

    var text: String {
        get throws {
            var card = JSONObject()
            card["schema"] = .int(1)
            card["kind"] = .string("recast verification card")
            card["recast"] = .string(recastVersion)
            let style = Date.ISO8601FormatStyle()
            card["date"] = .string(subject.date.formatted(style))
            card["command"] = .string(subject.command)
            card["reference"] = .object(try Self.identity(subject.reference))
            card["candidate"] = .object(try Self.identity(subject.candidate))
            for (key, value) in verdict.json.members where key != "schema" { card[key] = Self.shortened(key, value) }
            return try Yams.dump(object: Self.plain(.object(card)), allowUnicode: true, sortKeys: false)
        }
    }

    /// The files' own digests: of every small file, and of each tensor file's header, which fixes names, shapes and sizes; a
    /// checkpoint that Recast wrote has the digests of all its tensors in its manifest, whose digest is among these.
    private static func identity(_ path: String) throws -> JSONObject {
        var object: JSONObject = ["name": .string(path.split(separator: "/").last.map(String.init) ?? path)]
        var digests = JSONObject()
        let place = try SourcePlace(path)
        for name in try place.name.map({ [$0] }) ?? place.directory.names().sorted() {
            guard case .file(let size) = try place.directory.entry(name) else { continue }
            if name.hasSuffix(".safetensors") {
                let source = try place.directory.open(name)
                let length = try source.read(8, at: 0).reversed().reduce(0) { $0 << 8 | UInt64($1) }
                guard length <= 100_000_000 else { continue }
                let header = try source.read(Int(length) + 8, at: 0)
                digests[name] = .string("header sha256 \(Digest.of(header)), \(size) bytes")
            } else if size <= 64 << 20 {
                digests[name] = .string("sha256 \(Digest.of(try place.directory.read(name, limit: 64 << 20)))")
            }
        }
        object["files"] = .object(digests)
        return object
    }

    /// Long lists stay in the JSON report.
    private static func shortened(_ key: String, _ value: JSONValue) -> JSONValue {
        guard case .object(var object) = value else { return value }
        if key == "weights", let worst = object["worst"]?.array { object["worst"] = .array(Array(worst.prefix(3))) }
        if key == "weights" { object["kinds"] = nil }
        return .object(object)
    }

    /// As Yams takes it.
    private static func plain(_ value: JSONValue) throws -> Node {
        switch value {
        case .object(let object): .mapping(.init(try object.members.map { (Node($0.key), try plain($0.value)) }))
        case .array(let array): .sequence(.init(try array.map(plain)))
        case .string(let text): Node(text)
        case .number(let text): Node(text, Tag(.float), .plain)
        case .bool(let flag): Node(flag ? "true" : "false", Tag(.bool), .plain)
        case .null: Node("null", Tag(.null), .plain)
        }
    }
}
