import StrictJSON
import Tensors

/// What a sweep has measured, one JSON line a figure, by plan and tokens: a sweep that was stopped, or that asks for more, goes on.
final class SweepJournal {
    private(set) var points: [String: SweepPoint] = [:]
    /// Mean divergences of single units.
    private(set) var divergences: [String: Double] = [:]
    private let file: PositionedFile
    private var end = 0

    init(_ path: String) throws {
        file = try PositionedFile.openForWriting(path)
        let bytes = try file.read(try file.size(), at: 0)
        for line in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).dropLast() {
            guard let event = try? JSONValue(parsing: Array(line)), let key = event["key"]?.string else { break }
            if let point = event["point"].flatMap(SweepPoint.init(json:)) {
                points[key] = point
            } else if let value = event["kld"]?.double {
                divergences[key] = value
            }
            end += line.count + 1
        }
        // A torn last line is as if it were never written.
        try file.resize(to: end)
    }

    private func append(_ event: JSONObject) throws {
        let line = Array((JSONValue.object(event).text(pretty: false) + "\n").utf8)
        try file.write(line, at: end)
        end += line.count
    }

    func add(_ point: SweepPoint, _ key: String) throws {
        points[key] = point
        try append(["key": .string(key), "point": .object(point.json)])
    }

    func add(divergence: Double, _ key: String) throws {
        divergences[key] = divergence
        try append(["key": .string(key), "kld": .double(divergence)])
    }
}
