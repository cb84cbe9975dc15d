import Recast

/// What a run tells while it works, in the form that was asked for.
struct ProgressLine {
    private let form: ProgressForm
    private let started = ProcessFigures.now
    private var shown = ProcessFigures.now
    private var isOpen = false

    init(_ form: ProgressForm) {
        self.form = form != .auto ? form : Console.isErrorTerminal ? .bar : .plain
    }

    private var interval: Double {
        switch form {
        case .bar: 0.1
        case .json: 1
        default: 10
        }
    }

    /// - Parameter figures: what a program reads in place of the text.
    mutating func show(_ figures: JSONObject = [:], _ text: (_ elapsed: Double) -> String) {
        let now = ProcessFigures.now
        guard form != .none, now - shown >= interval else { return }
        shown = now
        switch form {
        case .bar:
            Console.live(text(now - started))
            isOpen = true
        case .json: write("progress", figures.members.isEmpty ? ["text": .string(text(now - started))] : figures)
        default: Console.error(text(now - started))
        }
    }

    /// Tells a step whenever it comes.
    func tell(_ text: String) {
        switch form {
        case .none: break
        case .json: write("step", ["text": .string(text)])
        default: Console.error(text)
        }
    }

    enum Remark: String {
        case note, warning
    }

    /// Tells what a user should know (`note`) or must know (`warning`), whatever the form.
    func tell(_ kind: Remark, _ text: String) {
        guard form == .json else { return Console.error("\(kind.rawValue): \(text)") }
        write(kind.rawValue, ["text": .string(text)])
    }

    private func write(_ event: String, _ figures: JSONObject) {
        let seconds = ((ProcessFigures.now - started) * 10).rounded() / 10
        var document: JSONObject = ["schema": .int(1), "event": .string(event), "seconds": .double(seconds)]
        for member in figures.members { document[member.key] = member.value }
        Console.error(JSONValue.object(document).text(pretty: false))
    }

    mutating func end() {
        if isOpen { Console.live("") }
        isOpen = false
    }
}

extension RunProgress {
    var figures: JSONObject {
        [
            "bytes_written": .int(bytesWritten), "bytes_audited": .int(bytesAudited), "bytes_total": .int(totalBytes), "file": .string(shard),
        ]
    }

    func line(_ elapsed: Double) -> String {
        // Half of the work is writing, half is reading back.
        let done = Double(bytesWritten + bytesAudited) / 2
        let rate = elapsed > 0 ? done / elapsed : 0
        let left = rate > 0 ? Int((Double(totalBytes) - done) / rate) : 0
        let percent = totalBytes > 0 ? Int(done * 100 / Double(totalBytes)) : 100
        let eta = left >= 3600 ? "\(left / 3600) h \(left % 3600 / 60) min" : left >= 60 ? "\(left / 60) min \(left % 60) s" : "\(left) s"
        return
            "\(percent) %  \(ByteSize(Int(done))) of \(ByteSize(totalBytes))  \((rate / 1e7).rounded() / 100) GB/s  \(eta) left  \(shard)"
    }
}

extension LayerProgress {
    var text: String { "layer \(layer + 1) of \(layers)" }
}
