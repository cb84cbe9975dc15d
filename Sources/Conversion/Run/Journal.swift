import Runtime
import StrictJSON
import Tensors

/// What a run has finished, one JSON line an event, appended as it happens. A torn last line is as if it were never written.
final class Journal: Sendable {
    struct State: Sendable {
        /// Weights whose bytes are in place but not yet audited.
        var written = Set<Int>()
        /// Weights that are written and audited, by position in the plan.
        var audited: [Int: WeightRecord] = [:]
        /// Shards that are under their final name.
        var shards = Set<Int>()
        /// Weights that a calibration stage wrote, with the digests of their tensors.
        var calibrated: [Int: [String]] = [:]
        var isCalibrationDone = false
    }

    private struct Tail { var offset: Int }
    private let file: PositionedFile
    private let tail: Lock<Tail>

    /// Opens the journal at `path`, whose directory is locked. Events of a run with the same `identity` are returned; nil means it belongs to another run.
    /// - Parameter stop: is told of every event.
    static func open(
        _ path: String, identity: String, plan: ConversionPlan, stop: StopToken
    ) throws -> (journal: Journal, state: State)? {
        let file = try PositionedFile.openForWriting(path)
        let bytes = try file.read(try file.size(), at: 0)
        var state = State()
        var end = 0
        /// Whether an event speaks of a weight of this plan and of all its tensors; of others nothing is believed.
        func isSound(_ weight: Int, _ digests: [String]) -> Bool {
            plan.weights.indices.contains(weight) && digests.count == plan.weights[weight].tensors.count
        }
        for line in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).dropLast() {
            guard let event = try? JSONValue(parsing: Array(line)) else { break }
            if end == 0 {
                guard event["plan"]?.string == identity else { return nil }
            } else if let weight = event["written"]?.int {
                state.written.insert(weight)
                state.audited[weight] = nil
            } else if let weight = event["audited"]?.int, let record = WeightRecord(json: event), isSound(weight, record.digests) {
                state.written.remove(weight)
                state.audited[weight] = record
            } else if let shard = event["anew"]?.int {
                guard plan.shards.indices.contains(shard) else { break }
                for weight in plan.shards[shard].weights {
                    state.written.remove(weight)
                    state.audited[weight] = nil
                    if state.calibrated[weight] != nil { (state.calibrated, state.isCalibrationDone) = ([:], false) }
                }
            } else if let shard = event["shard"]?.int {
                state.shards.insert(shard)
            } else if let weight = event["calibrated"]?.int, let digests = event["sha256"]?.array?.compactMap(\.string), isSound(weight, digests) {
                state.calibrated[weight] = digests
            } else if event["calibration"]?.string == "done" {
                state.isCalibrationDone = true
            } else if event["calibration"]?.string == "void" {
                (state.calibrated, state.isCalibrationDone) = ([:], false)
            } else if let weight = event["rewrite"]?.int {
                state.written.remove(weight)
                state.audited[weight] = nil
            }
            end += line.count + 1
        }
        try file.resize(to: end)
        let journal = Journal(file: file, offset: end, known: Set(state.audited.keys).union(state.written).union(state.calibrated.keys), stop: stop)
        if end == 0 { try journal.append(["plan": .string(identity)]) }
        return (journal, state)
    }

    private let stop: StopToken
    /// Weights that earlier runs left something about.
    private let known: Set<Int>

    private init(file: PositionedFile, offset: Int, known: Set<Int>, stop: StopToken) {
        self.known = known
        self.stop = stop
        self.file = file
        tail = Lock(Tail(offset: offset))
    }

    private func append(_ event: JSONObject) throws {
        let line = Array((JSONValue.object(event).text(pretty: false) + "\n").utf8)
        try tail.withLock { tail in
            try file.write(line, at: tail.offset)
            tail.offset += line.count
        }
        stop.count()
    }

    func wrote(_ weight: Int) throws { try append(["written": .int(weight)]) }

    func audited(_ weight: Int, _ record: WeightRecord) throws {
        var event: JSONObject = ["audited": .int(weight)]
        for (key, value) in record.json.members { event[key] = value }
        try append(event)
    }

    /// An unfinished file is about to be made that was lost since the journal spoke of its weights. Before it can be taken for the lost one,
    /// the journal says so for good.
    func startsAnew(_ shard: Int, weights: some Sequence<Int>) throws {
        guard weights.contains(where: known.contains) else { return }
        try append(["anew": .int(shard)])
        try synchronize()
    }

    /// The weight's bytes turned out wrong; the next run writes them again.
    func rewrite(_ weight: Int) throws { try append(["rewrite": .int(weight)]) }

    func calibrated(_ weight: Int, _ digests: [String]) throws {
        try append(["calibrated": .int(weight), "sha256": .array(digests.map(JSONValue.string))])
    }

    func calibrationDone() throws {
        try append(["calibration": .string("done")])
        try synchronize()
    }

    /// What the calibration stage wrote was lost; the next run writes it again.
    func calibrationVoid() throws { try append(["calibration": .string("void")]) }

    func finished(shard: Int) throws { try append(["shard": .int(shard)]) }

    func synchronize() throws { try file.synchronize() }
}
