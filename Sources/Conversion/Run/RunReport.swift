import Checkpoints
import Formats
import StrictJSON
import Tensors

/// What a finished run did, in the words of the field.
public struct RunReport: Sendable {
    /// What was read back and found.
    public struct Audit: Sendable, Equatable {
        /// Weights of the output.
        public var tensors = 0
        /// Values of these weights; scales are not counted.
        public var values = 0
        /// How many weights went which way.
        public var roads: [Road: Int] = [:]
        /// Bytes that differ from what they should be; a run with any fails.
        public var differences = 0
        /// Values that are infinite or NaN, as in the source.
        public var notFinite = 0

        package var json: JSONObject {
            [
                "tensors": .int(tensors), "values": .int(values), "passthrough": .int(roads[.passthrough] ?? 0),
                "repacked": .int(roads[.repack] ?? 0),
                "dequantized": .int(roads[.dequantize] ?? 0), "quantized": .int(roads[.quantize] ?? 0),
                "dtype_changes": .int(roads[.cast] ?? 0), "folded": .int(roads[.fold] ?? 0), "differences": .int(differences),
                "not_finite": .int(notFinite),
            ]
        }

        /// "1,163 tensors, 12,345,678 values: 62 passed through, ..., 0 differences."
        public var sentence: String {
            let parts = [
                "\((roads[.passthrough] ?? 0).grouped) passed through", "\((roads[.repack] ?? 0).grouped) repacked",
                "\((roads[.dequantize] ?? 0).grouped) dequantized",
                "\((roads[.quantize] ?? 0).grouped) quantized", "\((roads[.cast] ?? 0).grouped) declared dtype changes",
                "\(differences.grouped) differences found on reading back",
            ]
            let folded = roads[.fold].map { ", \($0.grouped) norms with scales folded in" } ?? ""
            let odd = notFinite > 0 ? "; \(notFinite.grouped) values are infinite or NaN, as in the source" : ""
            return "\(tensors.grouped) tensors, \(values.grouped) values: \(parts.joined(separator: ", "))\(folded)\(odd)."
        }
    }

    /// What was read back and found.
    public var audit = Audit()
    /// Nothing was done: the same conversion had been finished before.
    public var alreadyFinished: Bool
    /// Bytes read from the source.
    public var bytesRead = 0
    /// Bytes written.
    public var bytesWritten = 0
    /// Bytes of the source that were freed.
    public var freedBytes = 0
    /// Of the finished tensor files.
    public var outputBytes = 0
    /// Seconds from its beginning to its end.
    public var seconds = 0.0
    /// Weights with values that are not finite, or that engines computing in F16 cannot hold.
    package var findings: [Finding] = []
    /// The text of `recast.manifest.json` but for the files' sizes, which are known at the end only.
    private var manifestText: (head: String, tail: String, files: [String]) = ("", "", [])

    /// `recast.manifest.json`.
    /// - Parameter sizes: of the shards' files, in the order of the plan.
    func manifest(sizes: [Int]) -> [UInt8] {
        let files = zip(manifestText.files, sizes).map { JSONValue.object(["name": .string($0), "size": .int($1)]) }
        return Array((manifestText.head + "\"files\": " + JSONValue.array(files).text(pretty: false) + ",\n" + manifestText.tail).utf8)
    }

    /// What a user should know of the run and of what it read, a sentence each.
    public var notes: [String] { findings.map { "\($0)" } }

    /// Something that a user should know of the run itself.
    mutating func note(_ text: String?) {
        if let text { findings.append(Finding("", text)) }
    }

    /// What was done, in a sentence; of a run that was finished before only what was looked at.
    public var sentence: String {
        alreadyFinished
            ? "this conversion was finished before: its files are there with their sizes; they were not read again" : audit.sentence
    }

    /// - Parameters:
    ///   - calibrated: weights that a calibration stage wrote.
    ///   - part: whose weights alone are reported, and no manifest with them.
    init(
        plan: ConversionPlan, checkpoint: Checkpoint, records: [Int: WeightRecord], calibrated: Set<Int> = [], part: Part? = nil,
        alreadyFinished: Bool
    ) {
        self.alreadyFinished = alreadyFinished
        let shards = part?.shards(of: plan)
        for (position, planned) in plan.weights.enumerated() where shards?.contains(planned.shard) ?? true {
            if planned.isPrincipal { audit.tensors += 1 }
            let weight = checkpoint.weights[planned.source]
            if planned.isPrincipal {
                audit.values += planned.view?.shape.count ?? weight.count / (planned.split?.count ?? 1)
                audit.roads[planned.road, default: 0] += 1
            }
            if let count = records[position]?.notFinite, count > 0 {
                audit.notFinite += count
                findings.append(Finding(weight.name, "\(count) values are infinite or NaN, as in the source"))
            }
            if let error = records[position]?.error, !(error.sqnr >= 3), error.amax > 0, planned.layout.map({ !$0.name.contains("2") }) ?? true {
                findings.append(
                    Finding(weight.name, "has lost most of its values: a signal-to-noise ratio of \((error.sqnr * 100).rounded() / 100) dB"))
            }
            if let amax = records[position]?.error?.amax, amax > 65504 {
                findings.append(Finding(weight.name, "holds \(amax), beyond F16's largest number 65504; engines that compute in F16 will overflow"))
            }
        }
        if !alreadyFinished, part == nil { manifestText = Self.manifest(plan, checkpoint, records, calibrated, audit) }
    }

    /// The manifest: what was made from what, by which rules, with the digest of every stored tensor. It holds no times and no
    /// paths, so that the same conversion gives the same manifest.
    private static func manifest(
        _ plan: ConversionPlan, _ checkpoint: Checkpoint, _ records: [Int: WeightRecord], _ calibrated: Set<Int>, _ audit: Audit
    ) -> (head: String, tail: String, files: [String]) {
        let files = plan.source.files.map { file -> JSONValue in
            .object(["name": .string(file.name), "size": .int(file.size), "header_sha256": .string(file.headerDigest)])
        }
        let first = "{\n\"schema\": 1,\n\"plan\": \(JSONValue.string(plan.fingerprint).text(pretty: false)),\n"
        let head: [(String, JSONValue)] = [
            ("tool", .string("recast \(recastVersion)")),
            ("to", .string(plan.targetName)), ("container", .string(plan.output.summary)),
            ("recipe", .array(plan.recipe.summary.map(JSONValue.string))), ("quantizer", .string(plan.quantizer.rawValue)),
            ("evidence", .string(plan.evidence)),
            ("source", .object(["config_sha256": .string(plan.source.configDigest), "files": .array(files)])),
            ("audit", .object(audit.json)), ("claim", .string(audit.sentence)),
            ("notes", .array(plan.notes.map { .string("\($0)") })),
        ]
        var text = ""
        for (key, value) in head {
            JSONValue.quote(key, into: &text)
            text += ": " + value.text(pretty: false) + ",\n"
        }
        text += "\"weights\": [\n"
        for (position, planned) in plan.weights.enumerated() {
            let weight = checkpoint.weights[planned.source]
            let record = records[position]
            var entry: JSONObject = [
                "name": .string(weight.name), "shape": .array(weight.dimensions.map(JSONValue.int)), "from": .string(weight.layoutName),
                "layout": .string(planned.layout?.name ?? weight.layoutName), "road": .string(planned.road.rawValue),
                "file": .string(plan.shards[planned.shard].name),
            ]
            if planned.road == .quantize {
                // What no pass reached was quantized without its inputs.
                let quantizer = planned.isCalibrated && !calibrated.contains(position) ? planned.quantizer.withoutStatistics : planned.quantizer
                entry["quantizer"] = .string(quantizer.rawValue)
            }
            if let view = planned.view {
                entry["rows"] = .array([.int(view.rows.lowerBound), .int(view.rows.upperBound)])
                if view.columns.count < weight.shape.columns {
                    entry["columns"] = .array([.int(view.columns.lowerBound), .int(view.columns.upperBound)])
                }
                entry["transposed"] = .bool(view.isTransposed)
            }
            if let split = planned.split {
                entry["part"] = .object(["axis": .int(split.axis), "index": .int(split.index), "count": .int(split.count)])
            }
            entry["tensors"] = .array(
                planned.tensors.enumerated().map { index, tensor in
                    var object: JSONObject = [
                        "name": .string(tensor.name), "dtype": .string(tensor.type.rawValue), "shape": .array(tensor.shape.map(JSONValue.int)),
                        "sha256": .string(record?.digests[index] ?? ""),
                    ]
                    if let place = planned.stackIndex { object["index"] = .int(place) }
                    return .object(object)
                })
            for (key, value) in record?.json.members ?? [] where key != "sha256" { entry[key] = value }
            text += JSONValue.object(entry).text(pretty: false)
            text += position + 1 < plan.weights.count ? ",\n" : "\n"
        }
        text += "]\n}\n"
        return (first, text, plan.shards.map(\.name))
    }
}

/// The version of this library and tool.
package let recastVersion = "0.1.0"

extension Int {
    /// Digits in groups of three: 684,489,845,504.
    package var grouped: String {
        var text = ""
        for (index, digit) in String(magnitude).reversed().enumerated() {
            if index > 0, index % 3 == 0 { text.append(",") }
            text.append(digit)
        }
        return (self < 0 ? "-" : "") + String(text.reversed())
    }
}
