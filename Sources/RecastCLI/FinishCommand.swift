import ArgumentParser
import Recast

struct FinishCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "finish", abstract: "Joins the parts of a conversion: index, configuration and manifest.",
        discussion: """
            For a destination whose files were written by `recast convert ... --part I/N`. Exit status 75 says that parts are missing or at work.
            """)

    @Argument(help: "The directory that the parts wrote.") var destination: String
    @OptionGroup var memory: MemoryOptions
    @Flag(help: "No notes.") var quiet = false

    func run() async throws {
        guard let report = try await Conversion.finish(destination, memory: memory.bytes).follow(isQuiet: quiet, { _, _ in }) else {
            return Console.print("\(destination): nothing to join, this conversion was finished before.")
        }
        if !quiet { report.notes.forEach { Console.error("note: \($0)") } }
        Console.print(report.sentence)
    }
}
