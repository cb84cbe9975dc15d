import Conversion
import Foundation
import Parity
import Runtime
import StrictJSON
import Tensors

/// A sweep's results as files: a page, JSON, CSV, and the recipe of a mix.
package struct SweepOutput {
    static let recipeName = "mix.recipe.yaml"

    let results: SweepResult
    let subject: ParitySubject
    let tokens: Int

    /// - Parameter tokens: how many were evaluated.
    package init(_ result: SweepResult, subject: ParitySubject, tokens: Int) {
        results = result
        self.subject = subject
        self.tokens = tokens
    }

    /// Writes `STEM.html`, `.json` and `.csv`, and `STEM.recipe.yaml` if a mix was made.
    package func write(stem: String) throws {
        try FileTree.write(Array(page(stem).utf8), to: stem + ".html")
        try FileTree.write(Array((JSONValue.object(json).text() + "\n").utf8), to: stem + ".json")
        try FileTree.write(Array(csv.utf8), to: stem + ".csv")
        if let mix = results.mix { try FileTree.write(Array(mix.recipe.yaml.utf8), to: stem + ".recipe.yaml") }
    }

    package var json: JSONObject {
        var object: JSONObject = [
            "schema": .int(1), "source": .string(subject.reference), "tokens": .int(tokens),
            "points": .array(
                results.points.enumerated().map { index, point in
                    var entry = point.json
                    entry["pareto"] = .bool(frontier.contains(index))
                    return .object(entry)
                }),
        ]
        if !results.sensitivities.isEmpty {
            object["unit_quantizer"] = .string(results.unitQuantizer?.rawValue ?? "")
            object["units"] = .array(
                results.sensitivities.map { sensitivity in
                    .object([
                        "layer": .int(sensitivity.unit.layer), "kind": .string(sensitivity.unit.kind),
                        "costs": .array(
                            sensitivity.costs.map {
                                .object(["layout": .string($0.layout), "bytes": .int($0.bytes), "kld": .double($0.kld)])
                            }),
                    ])
                })
        }
        if let mix = results.mix {
            object["mix"] = .object([
                "layout": .string(mix.layout), "rules": .array(mix.recipe.summary.map(JSONValue.string)), "kld_predicted": .double(mix.predicted),
            ])
        }
        return object
    }

    package var csv: String { ([SweepPoint.columns] + results.points.map(\.csv)).joined(separator: "\n") + "\n" }

    /// Points that no other beats in both size and divergence, from small to large.
    var frontier: [Int] {
        let order = results.points.indices.sorted {
            let (a, b) = (results.points[$0], results.points[$1])
            return a.outputBytes != b.outputBytes ? a.outputBytes < b.outputBytes : Figures.isBelow(a.kld, b.kld)
        }
        var least = Double.infinity
        return order.filter { index in
            // A point that could not be measured beats none.
            guard results.points[index].isJudged, results.points[index].kld < least else { return false }
            least = results.points[index].kld
            return true
        }
    }

    /// Points whose figures are not numbers: what they stand for cannot be used.
    package var unjudged: [SweepPoint] { results.points.filter { !$0.isJudged } }

    /// What is worth a line on the terminal.
    package var text: String {
        let width = max(4, results.points.map(\.name.count).max() ?? 0)
        func cell(_ text: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - text.count)) + text }
        var lines = [
            "  " + "name".padding(toLength: width, withPad: " ", startingAt: 0) + cell("bits", 9) + cell("size", 12) + cell("KLD", 12)
                + cell("top-1", 9)
                + cell("perplexity", 12)
        ]
        for (index, point) in results.points.enumerated() {
            lines.append(
                (frontier.contains(index) ? "* " : "  ") + point.name.padding(toLength: width, withPad: " ", startingAt: 0)
                    + cell(String(format: "%.3f", point.bits), 9) + cell("\(ByteSize(point.outputBytes))", 12) + cell(point.kld.short, 12)
                    + cell(String(format: "%.4f", point.top1), 9) + cell(String(format: "%.4f", point.perplexity), 12))
        }
        for point in unjudged { lines.append("\(point.name): its divergence is no number; the layout cannot hold this model") }
        if let mix = results.mix { lines.append("mix: --to \(mix.layout) and \(mix.recipe.rules.count) rules; forecast KLD \(mix.predicted.short)") }
        lines.append("* no other is both smaller and closer to the original")
        return lines.joined(separator: "\n")
    }
}
