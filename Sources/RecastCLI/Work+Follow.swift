import Recast

extension Work {
    /// Shows what the work tells until it ends; Ctrl-C stops it.
    /// - Parameter show: puts progress on the line.
    func follow(_ form: ProgressOptions? = nil, isQuiet: Bool = false, _ show: (Progress, inout ProgressLine) -> Void) async throws -> Value {
        let interruption = Interruption(stop)
        defer { interruption.end() }
        var line = ProgressLine(isQuiet ? .none : form?.progress ?? .auto)
        defer { line.end() }
        for try await event in self {
            switch event {
            case .progress(let progress): show(progress, &line)
            case .note(let note): if !isQuiet { line.tell(.note, note) }
            case .finished(let value): return value
            }
        }
        throw CancellationError()
    }
}
