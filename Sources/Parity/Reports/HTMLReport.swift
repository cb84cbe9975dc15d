import Conversion
import Foundation
import Tensors

/// The verdict as one page: no script, no link to anything outside.
package struct HTMLReport {
    let verdict: ParityVerdict
    let subject: ParitySubject

    var text: String {
        """
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Parity: \(subject.candidate.escaped)</title>
        <style>\(Self.style)</style>
        </head>
        <body>
        <header>
        <p class="verdict \(verdict.passed ? "pass" : "fail")">\(verdict.passed ? "Passed" : "Failed")</p>
        <h1>\(subject.candidate.escaped)</h1>
        <p>against \(subject.reference.escaped), \(subject.date.formatted(Date.ISO8601FormatStyle()))</p>
        <p class="claim">\(verdict.claim.escaped)</p>
        </header>
        \(gates)
        \(forward)
        \(weights)
        \(consumer)
        <footer><code>\(subject.command.escaped)</code><br>recast \(recastVersion)</footer>
        </body>
        </html>

        """
    }

    private func table(_ head: [String], _ rows: [[String]]) -> String {
        let header = head.map { "<th>\($0.escaped)</th>" }.joined()
        // Figures stay on one line; sentences may wrap.
        let body = rows.map { "<tr>" + $0.map { "<td\($0.count > 40 ? " class=\"text\"" : "")>\($0)</td>" }.joined() + "</tr>" }.joined(
            separator: "\n")
        return "<div class=\"scroll\"><table><thead><tr>\(header)</tr></thead><tbody>\n\(body)\n</tbody></table></div>"
    }

    private var gates: String {
        let rows = verdict.gates.map { gate in
            [
                "<span class=\"\(gate.holds ? "pass" : "fail")\">\(gate.holds ? "holds" : "fails")</span>", gate.subject.rawValue.escaped,
                gate.requirement.escaped, (gate.failure ?? gate.found).escaped,
            ]
        }
        let source = verdict.claimed.map { "<p>Where none were given, the bounds are those of a <b>\($0.rawValue.escaped)</b> conversion.</p>" } ?? ""
        return "<section><h2>Bounds</h2>\(source)\(table(["", "of", "bound", "found"], rows))</section>"
    }

    private var forward: String {
        guard let trial = verdict.forward else { return "" }
        let comparison = trial.comparison
        let floor = trial.noiseFloor
        var parts = ["<section><h2>Forward pass</h2>"]
        if floor != nil { parts.append("<p>Noise floor: \(trial.noiseFloorName.escaped).</p>") }
        if let sentence = trial.latentNorms { parts.append("<p>\(sentence.escaped).</p>") }
        func row(_ name: String, _ figure: (PredictionComparison) -> Double) -> [String] {
            [
                name, figure(comparison.predictions).short, floor.map { figure($0.predictions).short } ?? "",
                comparison.mtp.map { figure($0).short } ?? "",
            ]
        }
        parts.append(
            table(
                ["", "candidate", "noise floor", "multi-token prediction"],
                [
                    row("mean KL(reference || candidate), nats", \.kld.mean), row("median", \.kld.median), row("99 %", \.kld.p99),
                    row("max", \.kld.maximum), row("top-1 agreement", \.top1), row("top-5 agreement", \.top5),
                    row("perplexity, reference", \.referencePerplexity), row("perplexity, candidate", \.candidatePerplexity),
                    row("log perplexity difference", \.logPerplexityDifference), row("its standard error", \.logPerplexityError),
                    [
                        "positions", comparison.predictions.positions.grouped, floor?.predictions.positions.grouped ?? "",
                        comparison.mtp?.positions.grouped ?? "",
                    ],
                ]))
        parts.append("<h3>KLD by position</h3>")
        var histogram = [(name: "candidate", style: "candidate", values: comparison.predictions.divergences)]
        if let floor { histogram.append(("noise floor", "floor", floor.predictions.divergences)) }
        parts.append(SVGChart.logHistogram(histogram, x: "KLD, nats"))
        if !comparison.layers.isEmpty {
            func points(_ layers: [ForwardComparison.Layer]) -> [(x: Double, y: Double)] {
                layers.filter { $0.sqnr.isFinite }.map { (Double($0.layer), $0.sqnr) }
            }
            parts.append("<h3>Residual stream after each layer</h3>")
            parts.append(
                SVGChart.lines(
                    [
                        .init(name: "candidate", style: "candidate", points: points(comparison.layers)),
                        .init(name: "noise floor", style: "floor", points: points(floor?.layers ?? [])),
                    ], x: "layer", y: "SQNR, dB"))
            parts.append(
                table(
                    [
                        "layer", "SQNR", "noise floor", "cosine", "experts agreed", "flipped experts", "tokens in other groups", "weight shift",
                        "experts not reached",
                    ],
                    comparison.layers.map { layer in
                        let noise = floor?.layers.first { $0.layer == layer.layer }
                        let routing =
                            layer.expertAgreement.map {
                                [
                                    $0.percent, layer.flippedExperts.grouped, layer.flippedGroups.grouped, layer.weightShift.short,
                                    "\(layer.unreachedExperts)",
                                ]
                            } ?? ["", "", "", "", ""]
                        return ["\(layer.layer)", layer.sqnr.decibels, noise?.sqnr.decibels ?? "", layer.cosine.short] + routing
                    }))
        }
        return parts.joined(separator: "\n") + "</section>"
    }

    private var weights: String {
        guard let audit = verdict.weights else { return "" }
        var parts = ["<section><h2>Weights</h2>"]
        parts.append("<p>\(audit.identical.grouped) of \(audit.weights.count.grouped) identical, \(audit.values.grouped) values.</p>")
        for (title, names) in [
            ("Missing", audit.missing), ("Multi-token prediction, left out", audit.leftOut), ("Not in the reference", audit.extra),
            ("Of another shape", audit.reshaped),
        ]
        where !names.isEmpty {
            parts.append("<p>\(title): \(names.prefix(20).joined(separator: ", ").escaped)\(names.count > 20 ? ", ..." : "")</p>")
        }
        let worst = audit.weights.prefix(20).filter { !$0.isIdentical }
        if !worst.isEmpty {
            let scale = Figures.largest(worst.map { $0.sqnr.isFinite && $0.sqnr > 0 ? $0.sqnr : 0 }) ?? 1
            parts.append("<h3>Worst weights</h3>")
            parts.append(
                table(
                    ["weight", "layouts", "SQNR", "", "max error", "mean error", "cosine"],
                    worst.map { weight in
                        [
                            "<code>\(weight.name.escaped)</code>", "\(weight.referenceLayout) → \(weight.candidateLayout)".escaped,
                            weight.sqnr.decibels,
                            SVGChart.bar(weight.sqnr / Figures.larger(scale, 1e-9)), weight.maximumError.short, weight.meanError.short,
                            weight.cosine.short,
                        ]
                    }))
            parts.append("<h3>By kind, worst first</h3>")
            parts.append(
                table(
                    ["kind", "different", "worst SQNR", "median SQNR", "mean error"],
                    audit.kinds.filter { $0.different > 0 }.map { kind in
                        [
                            "<code>\(kind.name.escaped)</code>", "\(kind.different) of \(kind.weights)", kind.worst.sqnr.decibels,
                            kind.medianSQNR.decibels, kind.meanError.short,
                        ]
                    }))
        }
        return parts.joined(separator: "\n") + "</section>"
    }

    private var consumer: String {
        guard let report = verdict.consumer else { return "" }
        let lines = report.lines.map { "<li>\($0.escaped)</li>" }.joined(separator: "\n")
        return "<section><h2>For \(report.consumer.name.escaped)</h2><ul>\(lines)</ul></section>"
    }

    package static let style = """
        :root { --ground: #fcfcfa; --ink: #1c2126; --soft: #626b74; --rule: #dcdfe2; --candidate: #1f6fb2; --floor: #8a6d3b; --pass: #1b7a43; --fail: #b3261e; }
        @media (prefers-color-scheme: dark) { :root { --ground: #14181c; --ink: #e6e9ec; --soft: #98a2ab; --rule: #2c343b; --candidate: #6db3f2; --floor: #d8b878; --pass: #6bcf93; --fail: #ff8a80; } }
        body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; }
        h1 { font-size: 1.4rem; margin: 0.2rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; } h3 { font-size: 0.95rem; margin: 1.5rem 0 0.3rem; }
        p { margin: 0.3rem 0; } .claim { color: var(--soft); } .verdict { font-weight: 700; } .pass { color: var(--pass); } .fail { color: var(--fail); }
        .scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.88rem; }
        th { text-align: left; font-weight: 600; color: var(--soft); } th, td { padding: 0.2rem 1rem 0.2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
        td { white-space: nowrap; } td.text { white-space: normal; overflow-wrap: anywhere; } code { font-size: 0.85rem; overflow-wrap: anywhere; } footer { margin: 3rem 0 1rem; color: var(--soft); font-size: 0.85rem; }
        .chart { width: 100%; height: auto; } .bar { width: 120px; height: 10px; } .grid { stroke: var(--rule); } .label { font-size: 11px; fill: var(--soft); } .name { font-size: 12px; font-weight: 600; }
        .line { fill: none; stroke-width: 2; } .line.candidate { stroke: var(--candidate); } .line.floor { stroke: var(--floor); stroke-dasharray: 5 4; }
        .area.candidate { fill: color-mix(in srgb, var(--candidate) 18%, transparent); } .dot.candidate, .name.candidate, .fill.candidate { fill: var(--candidate); } .dot.floor, .name.floor { fill: var(--floor); }
        """
}
