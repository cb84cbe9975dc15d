import Foundation
import Tensors

/// Small plots as inline SVG. Colours come from the page's style sheet, by class.
package enum SVGChart {
    struct Series {
        var name: String
        /// The class that gives the colour: `candidate` or `floor`.
        var style: String
        var points: [(x: Double, y: Double)]
    }

    private static let (width, height) = (720.0, 260.0)
    private static let (left, right, top, bottom) = (56.0, 150.0, 14.0, 40.0)

    private struct Axis {
        var low: Double
        var high: Double
        var from: Double
        var to: Double

        func place(_ value: Double) -> Double { from + (value - low) / max(high - low, .leastNormalMagnitude) * (to - from) }
    }

    /// Lines over whole numbers, labelled at their ends.
    static func lines(_ series: [Series], x: String, y: String) -> String {
        let series = series.map { Series(name: $0.name, style: $0.style, points: $0.points.filter { $0.x.isFinite && $0.y.isFinite }) }
        let points = series.flatMap(\.points)
        guard let first = points.map(\.x).min(), let last = points.map(\.x).max(), let low = points.map(\.y).min(), let high = points.map(\.y).max()
        else { return "" }
        let across = Axis(low: first, high: max(last, first + 1), from: left, to: width - right)
        let step = tickStep(high - min(0, low))
        let up = Axis(low: (min(0, low) / step).rounded(.down) * step, high: (high / step).rounded(.up) * step, from: height - bottom, to: top)
        var body = frame(up, step: step, y: y)
        let xStep = max(1, tickStep(last - first).rounded())
        for tick in stride(from: first, through: last, by: xStep) {
            body += label(across.place(tick), height - bottom + 16, number(tick), anchor: "middle")
        }
        body += label((left + width - right) / 2, height - 6, x, anchor: "middle")
        var labels: [Double] = []
        for line in series where !line.points.isEmpty {
            let path = line.points.map { "\(number(across.place($0.x))),\(number(up.place($0.y)))" }.joined(separator: " ")
            body += "<polyline class=\"line \(line.style)\" points=\"\(path)\"/>"
            for point in line.points {
                body +=
                    "<circle class=\"dot \(line.style)\" cx=\"\(number(across.place(point.x)))\" cy=\"\(number(up.place(point.y)))\" r=\"3\"><title>\(line.name.escaped), \(x.escaped) \(number(point.x)): \(number(point.y))</title></circle>"
            }
            // Labels that would cover each other are moved apart.
            var place = up.place(line.points[line.points.count - 1].y)
            while let other = labels.first(where: { abs($0 - place) < 14 }) { place = other + 14 }
            labels.append(place)
            body += "<text class=\"name \(line.style)\" x=\"\(number(width - right + 10))\" y=\"\(number(place + 4))\">\(line.name.escaped)</text>"
        }
        return svg(body)
    }

    /// Shares of values by powers of ten, as steps; values at or below the smallest power are one column.
    static func logHistogram(_ series: [(name: String, style: String, values: [Double])], x: String) -> String {
        let (low, high, perDecade) = (-8, 1, 4)
        let count = (high - low) * perDecade
        func shares(_ values: [Double]) -> [Double] {
            var bins = [Double](repeating: 0, count: count)
            for value in values where !value.isNaN {
                let place = value > 0 ? (log10(value) - Double(low)) * Double(perDecade) : 0
                bins[Figures.whole(place.rounded(.down), in: 0...count - 1)] += 1
            }
            return bins.map { $0 / Double(max(1, values.count)) * 100 }
        }
        let columns = series.map { shares($0.values) }
        guard let highest = columns.joined().max(), highest > 0 else { return "" }
        let step = tickStep(highest)
        let across = Axis(low: Double(low), high: Double(high), from: left, to: width - right)
        let up = Axis(low: 0, high: (highest / step).rounded(.up) * step, from: height - bottom, to: top)
        var body = frame(up, step: step, y: "% of positions")
        for power in low...high { body += label(across.place(Double(power)), height - bottom + 16, "1e\(power)", anchor: "middle") }
        body += label((left + width - right) / 2, height - 6, x, anchor: "middle")
        for (index, line) in series.enumerated() {
            var points = "\(number(left)),\(number(up.place(0)))"
            for (bin, share) in columns[index].enumerated() {
                let (start, end) = (Double(low) + Double(bin) / Double(perDecade), Double(low) + Double(bin + 1) / Double(perDecade))
                points += " \(number(across.place(start))),\(number(up.place(share))) \(number(across.place(end))),\(number(up.place(share)))"
            }
            points += " \(number(width - right)),\(number(up.place(0)))"
            body += "<polyline class=\"line area \(line.style)\" points=\"\(points)\"/>"
            body +=
                "<text class=\"name \(line.style)\" x=\"\(number(width - right + 10))\" y=\"\(number(top + 14 + Double(index) * 18))\">\(line.name.escaped)</text>"
        }
        return svg(body)
    }

    /// Labelled points over a linear and a logarithmic axis, and a line through those on the frontier, from left to right.
    package static func scatter(_ points: [(x: Double, y: Double, name: String, style: String)], frontier: [Int], x: String, y: String) -> String {
        let shown = points.filter { $0.x.isFinite && $0.y > 0 && $0.y.isFinite }
        guard let first = shown.map(\.x).min(), let last = shown.map(\.x).max(), let low = shown.map(\.y).min(), let high = shown.map(\.y).max()
        else { return "" }
        let (height, right) = (420.0, 150.0)
        let step = tickStep(max(last - first, 0.5))
        let across = Axis(
            low: (first / step).rounded(.down) * step, high: ((last + step / 4) / step).rounded(.up) * step, from: left, to: width - right)
        let (bottomPower, topPower) = (log10(low).rounded(.down), max(log10(high).rounded(.up), log10(low).rounded(.down) + 1))
        let up = Axis(low: bottomPower, high: topPower, from: height - bottom, to: top + 8)
        var body = label(left, top - 3, y, anchor: "start")
        for power in stride(from: bottomPower, through: topPower, by: 1) {
            let place = number(up.place(power))
            body += "<line class=\"grid\" x1=\"\(number(left))\" x2=\"\(number(width - right))\" y1=\"\(place)\" y2=\"\(place)\"/>"
            body += label(left - 8, up.place(power) + 4, "1e\(Int(power))", anchor: "end")
        }
        for tick in stride(from: across.low, through: across.high + step / 2, by: step) {
            body += label(across.place(tick), height - bottom + 16, number(tick), anchor: "middle")
        }
        body += label((left + width - right) / 2, height - 6, x, anchor: "middle")
        let line = frontier.map { "\(number(across.place(points[$0].x))),\(number(up.place(log10(points[$0].y))))" }
        if line.count > 1 { body += "<polyline class=\"line frontier\" points=\"\(line.joined(separator: " "))\"/>" }
        var labels: [(x: Double, y: Double)] = []
        for point in shown {
            let (cx, cy) = (across.place(point.x), up.place(log10(point.y)))
            body +=
                "<circle class=\"dot \(point.style)\" cx=\"\(number(cx))\" cy=\"\(number(cy))\" r=\"4\"><title>\(point.name.escaped): \(number(point.x)), \(point.y.short)</title></circle>"
            var place = cy + 4
            // Labels that would cover each other are moved apart.
            while labels.contains(where: { abs($0.y - place) < 11 && abs($0.x - cx) < 130 }) { place += 11 }
            labels.append((cx, place))
            body += "<text class=\"name \(point.style)\" x=\"\(number(cx + 8))\" y=\"\(number(place))\">\(point.name.escaped)</text>"
        }
        return "<svg class=\"chart\" viewBox=\"0 0 \(number(width)) \(number(height))\" role=\"img\">\(body)</svg>"
    }

    /// A bar for a table cell, a share between 0 and 1 of its width.
    static func bar(_ share: Double) -> String {
        "<svg class=\"bar\" viewBox=\"0 0 120 10\" aria-hidden=\"true\"><rect class=\"fill candidate\" width=\"\(number(share > 0 ? 120 * Figures.smaller(1, share) : 0))\" height=\"10\" rx=\"2\"/></svg>"
    }

    private static func frame(_ up: Axis, step: Double, y: String) -> String {
        var body = ""
        for tick in stride(from: up.low, through: up.high + step / 2, by: step) {
            let place = number(up.place(tick))
            body += "<line class=\"grid\" x1=\"\(number(left))\" x2=\"\(number(width - right))\" y1=\"\(place)\" y2=\"\(place)\"/>"
            body += label(left - 8, up.place(tick) + 4, number(tick), anchor: "end")
        }
        return body + label(left, top - 3, y, anchor: "start")
    }

    /// A round step that makes four to eight ticks.
    private static func tickStep(_ span: Double) -> Double {
        guard span > 0, span.isFinite else { return 1 }
        let power = pow(10, (log10(span / 5)).rounded(.down))
        return [1, 2, 5, 10].map { $0 * power }.first { span / $0 <= 7 } ?? 10 * power
    }

    private static func label(_ x: Double, _ y: Double, _ text: String, anchor: String) -> String {
        "<text class=\"label\" x=\"\(number(x))\" y=\"\(number(y))\" text-anchor=\"\(anchor)\">\(text.escaped)</text>"
    }

    private static func number(_ value: Double) -> String {
        // A place that no figure has is drawn at the origin: the page must stay well-formed.
        guard value.isFinite else { return "0" }
        let rounded = (value * 100).rounded() / 100
        return rounded == rounded.rounded() && abs(rounded) < 1e15 ? "\(Int(rounded))" : "\(rounded)"
    }

    private static func svg(_ body: String) -> String {
        "<svg class=\"chart\" viewBox=\"0 0 \(number(width)) \(number(height))\" role=\"img\">\(body)</svg>"
    }
}
