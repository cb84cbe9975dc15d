import Conversion
import Foundation
import Parity
import Tensors

extension SweepOutput {
    /// One page without scripts and without links to anything outside.
    func page(_ stem: String) -> String {
        let recipe = (stem.split(separator: "/").last.map(String.init) ?? stem) + ".recipe.yaml"
        return """
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>Sweep: \(subject.reference.escaped)</title>
            <style>\(HTMLReport.style)\(Self.style)</style>
            </head>
            <body>
            <header>
            <h1>\(subject.reference.escaped)</h1>
            <p>Divergence from the original over \(tokens.grouped) tokens, \(subject.date.formatted(Date.ISO8601FormatStyle()))</p>
            </header>
            <section><h2>Size against divergence</h2>
            <p>Filled points are on the frontier: no other is both smaller and closer to the original.</p>
            \(plot)</section>
            <section><h2>All points</h2>\(table(recipe))</section>
            \(heatMaps)
            <footer><code>\(subject.command.escaped)</code><br>recast \(recastVersion)</footer>
            </body>
            </html>

            """
    }

    private var plot: String {
        let frontier = self.frontier
        return SVGChart.scatter(
            results.points.enumerated().map { index, point in
                (
                    x: Double(point.outputBytes) / unit.bytes, y: Figures.larger(point.kld, 1e-9), name: point.name,
                    style: frontier.contains(index) ? "candidate" : "floor"
                )
            }, frontier: frontier, x: "size of the output, \(unit.name)", y: "mean KL(original || candidate), nats")
    }

    /// Gigabytes, or megabytes where those suit better.
    private var unit: (name: String, bytes: Double) {
        (results.points.map(\.outputBytes).max() ?? 0) > 2_000_000_000 ? ("GB", 1e9) : ("MB", 1e6)
    }

    private func table(_ recipe: String) -> String {
        let head = ["", "bits a weight", "size, \(unit.name)", "mean KLD", "median", "99 %", "top-1", "perplexity", "original's", "command"]
        let frontier = Set(self.frontier)
        let rows = results.points.enumerated().map { index, point -> String in
            let arguments = point.arguments.replacing(Self.recipeName, with: recipe)
            let cells = [
                "<b>\(point.name.escaped)</b>", String(format: "%.3f", point.bits), String(format: "%.3f", Double(point.outputBytes) / unit.bytes),
                point.kld.short, point.kldMedian.short, point.kld99.short, point.top1.percent, String(format: "%.4f", point.perplexity),
                String(format: "%.4f", point.referencePerplexity),
                "<code>recast convert \(subject.reference.escaped) OUTPUT \(arguments.escaped)</code>",
            ]
            return "<tr\(frontier.contains(index) ? " class=\"frontier\"" : "")>" + cells.map { "<td>\($0)</td>" }.joined() + "</tr>"
        }
        return
            "<div class=\"scroll\"><table><thead><tr>\(head.map { "<th>\($0)</th>" }.joined())</tr></thead><tbody>\n\(rows.joined(separator: "\n"))\n</tbody></table></div>"
    }

    // MARK: Sensitivity

    /// A map for every layout: what each kind of weight in each layer costs alone.
    private var heatMaps: String {
        guard let first = results.sensitivities.first else { return "" }
        let by = results.unitQuantizer.map { " by \($0.rawValue)" } ?? ""
        let all = results.sensitivities.flatMap { $0.costs.map(\.kld) }.filter { $0 > 0 && $0.isFinite }
        let (low, high) = (log10(Figures.smallest(all) ?? 1e-9), log10(Figures.largest(all) ?? 1))
        var text = "<section><h2>Sensitivity</h2><p>Mean KLD when only these weights are quantized and all others are the original.</p>"
        let kinds = results.sensitivities.map(\.unit.kind).reduce(into: [String]()) { if !$0.contains($1) { $0.append($1) } }.sorted()
        let layers = Set(results.sensitivities.map(\.unit.layer)).sorted()
        for (index, cost) in first.costs.enumerated() {
            var rows: [String] = []
            for kind in kinds {
                var cells = "<td class=\"kind\"><code>\(kind.escaped)</code></td>"
                for layer in layers {
                    guard let found = results.sensitivities.first(where: { $0.unit.kind == kind && $0.unit.layer == layer }),
                        !(found.costs[index].kld == 0)
                    else {
                        cells += "<td></td>"
                        continue
                    }
                    let kld = found.costs[index].kld
                    let share = high > low && kld.isFinite ? (log10(kld) - low) / (high - low) : 1
                    cells +=
                        "<td class=\"heat\" style=\"--heat:\(Figures.whole(share * 100, in: 0...100))%\" title=\"\(kind.escaped), layer \(layer): \(kld.short)\">\(kld.short)</td>"
                }
                rows.append("<tr>\(cells)</tr>")
            }
            text += "<h3>\(cost.layout.escaped)\(by)</h3><div class=\"scroll\"><table class=\"map\"><thead><tr><th></th>"
            text += layers.map { "<th>layer \($0)</th>" }.joined() + "</tr></thead><tbody>\(rows.joined(separator: "\n"))</tbody></table></div>"
        }
        if let mix = results.mix {
            text += "<h3>The mix</h3><p><code>--to \(mix.layout.escaped)</code> with these rules; forecast KLD \(mix.predicted.short).</p><ul>"
            text += mix.recipe.summary.map { "<li><code>\($0.escaped)</code></li>" }.joined() + "</ul>"
        }
        return text + "</section>"
    }

    private static let style = """
        .line.frontier{stroke:currentColor;stroke-dasharray:4 3;opacity:.5;fill:none}
        tr.frontier td{font-weight:600}
        table.map td.heat{background:color-mix(in oklab, transparent, #d9480f var(--heat));text-align:right}
        svg .name{font-size:10px}
        """
}
