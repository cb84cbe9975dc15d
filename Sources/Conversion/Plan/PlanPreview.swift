import Architectures
import Checkpoints
import Formats
import Quantization
import Runtime
import StrictJSON

/// A plan for people: what goes which way, and why. Weights that differ in numbers only share a row.
package struct PlanPreview {
    private struct Key: Hashable {
        var kind: String
        var road: Road
        var from: String
        var to: String
        var reason: String
        var quantizer: QuantizerName
        /// What the weights were taken for, where the architecture does not say it.
        var inferred: String?
    }

    private struct Row {
        var key: Key
        var weights = 0
        var bytesIn = 0
        var bytesOut = 0
    }

    private let plan: ConversionPlan
    private let rows: [Row]

    package init(_ plan: ConversionPlan, _ checkpoint: Checkpoint) {
        self.plan = plan
        var rows: [Key: Row] = [:]
        for planned in plan.weights {
            let weight = checkpoint.weights[planned.source]
            let key = Key(
                kind: WeightName.kind(weight.name), road: planned.road, from: weight.layoutName,
                to: planned.layout?.name ?? weight.layoutName, reason: planned.reason,
                quantizer: planned.road == .quantize ? planned.quantizer : .rtn, inferred: checkpoint.roles.inferredRole(of: weight))
            var row = rows[key] ?? Row(key: key)
            row.weights += planned.isPrincipal ? 1 : 0
            row.bytesIn += planned.passed(of: weight).reduce(0) { $0 + $1.byteCount }
            row.bytesOut += planned.tensors.reduce(0) { $0 + $1.byteCount }
            rows[key] = row
        }
        self.rows = rows.values.sorted { ($0.key.kind, $0.key.road.rawValue, $0.key.reason) < ($1.key.kind, $1.key.road.rawValue, $1.key.reason) }
    }

    package var text: String {
        var lines: [String] = []
        for row in rows {
            let way =
                row.key.road == .passthrough
                ? "\(row.key.from), passed through"
                : "\(row.key.from) -> \(row.key.to), \(row.key.road.rawValue)"
                    + (row.key.quantizer == .rtn ? "" : " by \(row.key.quantizer.rawValue)")
            let role = row.key.inferred.map { "; taken for: \($0)" } ?? ""
            lines.append("\(row.weights.grouped) x \(row.key.kind): \(way) [\(row.key.reason)\(role)]")
        }
        lines.append(
            "\(plan.weights.count { $0.isPrincipal }.grouped) weights into \(plan.shards.count) files, \(ByteSize(plan.outputBytes)); nothing was written"
        )
        lines += plan.notes.map { "note: \($0)" } + plan.warnings.map { "warning: \($0)" }
        return lines.joined(separator: "\n")
    }

    package var json: JSONObject {
        [
            "schema": .int(1), "plan": .string(plan.fingerprint), "to": .string(plan.targetName),
            "weights": .int(plan.weights.count { $0.isPrincipal }),
            "bytes_written": .int(plan.outputBytes),
            "shards": .array(plan.shards.map { .object(["name": .string($0.name), "bytes": .int($0.size), "weights": .int($0.weights.count)]) }),
            "roads": .array(
                rows.map {
                    .object([
                        "kind": .string($0.key.kind), "weights": .int($0.weights), "road": .string($0.key.road.rawValue),
                        "from": .string($0.key.from), "to": .string($0.key.to), "reason": .string($0.key.reason),
                        "quantizer": .string($0.key.quantizer.rawValue),
                        "inferred_role": $0.key.inferred.map(JSONValue.string) ?? .null,
                        "bytes_in": .int($0.bytesIn), "bytes_out": .int($0.bytesOut),
                    ])
                }),
            "notes": .array(plan.notes.map { .string("\($0)") }),
        ]
    }
}

extension ModelRoles {
    /// What a weight is taken for, where its architecture is not known; nil where it is.
    fileprivate func inferredRole(of weight: Weight) -> String? {
        guard architecture == nil else { return nil }
        if let exemption = exemption(of: String(weight.module)) { return exemption.reason }
        guard let role = place(of: weight.module)?.role else { return weight.dimensions.count == 2 ? "a linear weight" : "a parameter" }
        // A role is a word as code spells it.
        return role.rawValue.reduce(into: "") { $0 += $1.isUppercase ? " " + $1.lowercased() : String($1) }
    }
}
