import ArgumentParser
import Recast

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Measures how far a checkpoint is from a reference, weight by weight.",
        discussion: "Both may be in any layout; they are compared by the values that the layouts define.")

    @Argument(help: "The checkpoint to compare with.") var reference: String
    @Argument(help: "The checkpoint to judge.") var candidate: String
    @Flag(help: "Every value must be equal.") var exact = false
    @Flag(help: "Compare the weights only.") var weightsOnly = false
    @Option(help: ArgumentHelp("Fail if a weight's signal-to-noise ratio is below this many decibels.", valueName: "dB")) var minSqnr: Double?
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?
    @Flag(help: "One JSON document on standard output.") var json = false

    func validate() throws {
        if !exact && !weightsOnly && minSqnr == nil {
            throw ValidationError("say what to compare: --weights-only, --exact, or --min-sqnr with a bound")
        }
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
    }

    func run() throws {
        let interruption = Interruption()
        let audit = try WeightAudit(
            reference: Checkpoint(opening: reference), candidate: Checkpoint(opening: candidate),
            options: RunOptions(memory: memory.bytes, jobs: jobs), stop: interruption.token)
        let verdict = WeightVerdict(audit, exact: exact, minimumSQNR: minSqnr)
        Console.print(json ? JSONValue.object(verdict.json).text() : verdict.text)
        if !verdict.passed { throw ExitCode(FailureKind.parity.rawValue) }
    }
}
