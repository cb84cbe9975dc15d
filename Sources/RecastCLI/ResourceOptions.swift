import ArgumentParser
import Foundation
import Recast

/// Memory that a command may take. The environment speaks where the option is not given: one line in a job file, for all commands.
struct MemoryOptions: ParsableArguments {
    private static let standard = SizeArgument(argument: "2GiB")!

    @Option(
        help: ArgumentHelp(
            "Upper bound on working memory, also by RECAST_MEMORY. (default: \(standard.defaultValueDescription))", valueName: "size"))
    var memory: SizeArgument?

    var bytes: Int { (memory ?? Self.environment).bytes }

    private static var environment: SizeArgument {
        ProcessInfo.processInfo.environment["RECAST_MEMORY"].flatMap { SizeArgument(argument: $0) } ?? standard
    }

    func validate() throws {
        if let text = ProcessInfo.processInfo.environment["RECAST_MEMORY"], SizeArgument(argument: text) == nil {
            throw ValidationError("RECAST_MEMORY is \"\(text)\", which is no size like 512MiB")
        }
    }
}

/// Memory and threads that a command may take.
struct ResourceOptions: ParsableArguments {
    @OptionGroup var memory: MemoryOptions
    @Option(help: ArgumentHelp("Worker threads, also by RECAST_JOBS; one a processor by default.", valueName: "n")) var jobs: Int?

    var runOptions: RunOptions { RunOptions(memory: memory.bytes, jobs: jobs ?? Self.environment.flatMap(Int.init)) }

    private static var environment: String? { ProcessInfo.processInfo.environment["RECAST_JOBS"] }

    func validate() throws {
        if let jobs, !Self.isPossible(jobs) { throw ValidationError("--jobs must be between 1 and 1024") }
        if let text = Self.environment, Int(text).map(Self.isPossible) != true {
            throw ValidationError("RECAST_JOBS is \"\(text)\", and must be a number between 1 and 1024")
        }
    }

    private static func isPossible(_ jobs: Int) -> Bool { (1...1024).contains(jobs) }
}

/// How progress is told on standard error.
enum ProgressForm: String, ExpressibleByArgument, CaseIterable {
    /// A bar on a terminal, plain lines elsewhere.
    case auto
    /// One line that is written anew.
    case bar
    /// A line every ten seconds.
    case plain
    /// A JSON document a line, every second.
    case json
    case none
}

struct ProgressOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How progress is told on standard error: auto, a live line (bar), a line every ten seconds (plain), a JSON document a line (json), none.",
            valueName: "form"))
    var progress = ProgressForm.auto

    /// Tells what is known before a run begins, or once it has ended.
    func tell(_ kind: ProgressLine.Remark, _ texts: [String]) {
        let line = ProgressLine(progress)
        for text in texts { line.tell(kind, text) }
    }
}
