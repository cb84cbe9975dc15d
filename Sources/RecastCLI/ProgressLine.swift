import Recast

/// One live line on a terminal; a plain line every 10 seconds elsewhere.
struct ProgressLine {
    private let isQuiet: Bool
    private let isLive = Console.isErrorTerminal
    private let started = ProcessFigures.now
    private var shown = ProcessFigures.now
    private var isOpen = false

    init(isQuiet: Bool) { self.isQuiet = isQuiet }

    mutating func show(_ text: (_ elapsed: Double) -> String) {
        let now = ProcessFigures.now
        guard !isQuiet, now - shown >= (isLive ? 0.1 : 10) else { return }
        shown = now
        if isLive {
            Console.live(text(now - started))
            isOpen = true
        } else {
            Console.error(text(now - started))
        }
    }

    mutating func end() {
        if isOpen { Console.live("") }
        isOpen = false
    }

}

extension RunProgress {
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
