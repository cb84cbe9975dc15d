import ArgumentParser
import Recast

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Measures how far a checkpoint is from a reference: weights, and with tokens the forward pass.",
        discussion: """
            Both may be in any layout; weights are compared by the values that the layouts define. With --tokens both checkpoints run \
            through the same forward pass in lockstep, layer by layer. Exit status 1 says that a bound does not hold.
            """)

    @Argument(help: "The checkpoint to compare with.") var reference: String
    @Argument(help: "The checkpoint to judge.") var candidate: String
    @Flag(help: "Every value must be equal.") var exact = false
    @Flag(help: "Compare the weights only.") var weightsOnly = false
    @Option(help: ArgumentHelp("Sequences for the forward pass: JSON {\"sequences\": [[...]]} or safetensors input_ids.", valueName: "file"))
    var tokens: String?
    @Option(help: "Arithmetic of the forward pass: f32, bf16 or fp8.") var precision: Precision = .f32
    @Option(help: ArgumentHelp("Fail if the mean KLD is above this.", valueName: "nats")) var maxKld: Double?
    @Option(help: ArgumentHelp("Fail if fewer positions prefer the same token.", valueName: "share")) var minTop1: Double?
    @Option(help: ArgumentHelp("Fail if the perplexity grows by more than this factor.", valueName: "ratio")) var maxPerplexityRatio: Double?
    @Option(help: ArgumentHelp("Fail if a weight's signal-to-noise ratio is below this many decibels.", valueName: "dB")) var minSqnr: Double?
    @Flag(inversion: .prefixedNo, help: "Also run the reference in BF16, to show what difference is mere rounding.") var noiseFloor = true
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?
    @Option(help: ArgumentHelp("Also write the verdict as .json or JUnit .xml; may be given more than once.", valueName: "file"))
    var report: [String] = []
    @Flag(help: "One JSON document on standard output.") var json = false

    func validate() throws {
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
        for path in report where ParityReport(path: path) == nil {
            throw ValidationError("--report \(path): reports are files that end in .json or .xml")
        }
        if weightsOnly, tokens != nil { throw ValidationError("--weights-only and --tokens exclude each other") }
        let asked = [maxKld.map { _ in "--max-kld" }, minTop1.map { _ in "--min-top1" }, maxPerplexityRatio.map { _ in "--max-perplexity-ratio" }]
            .compactMap { $0 }
        if tokens == nil, !asked.isEmpty { throw ValidationError(ParityFailure.needsTokens(asked).description) }
    }

    func run() throws {
        if tokens != nil { ProcessFigures.keepFreedMemory() }
        let interruption = Interruption()
        let options = RunOptions(memory: memory.bytes, jobs: jobs)
        let (left, right) = (try Checkpoint(opening: reference), try Checkpoint(opening: candidate))
        let audit = try WeightAudit(reference: left, candidate: right, options: options, stop: interruption.token)
        var forward: ForwardComparison?
        var floor: ForwardComparison?
        if let tokens, audit.missing.isEmpty, audit.reshaped.isEmpty {
            let batch = try TokenBatch(reading: tokens)
            func pass(_ checkpoint: Checkpoint, _ precision: Precision) throws -> ForwardPass {
                try ForwardPass(checkpoint, tokens: batch, precision: precision, options: options)
            }
            forward = try ForwardComparison(pass(left, precision), pass(right, precision), stop: interruption.token)
            if noiseFloor { floor = try ForwardComparison(pass(left, .f32), pass(left, .bf16), stop: interruption.token) }
        }
        let verdict = ParityVerdict(
            weights: audit, forward: forward, noiseFloor: floor,
            bounds: ParityBounds(
                exact: exact, minimumSQNR: minSqnr, maximumKLD: maxKld, minimumTop1: minTop1, maximumPerplexityRatio: maxPerplexityRatio))
        for path in report {
            guard let form = ParityReport(path: path) else { continue }
            try FileTree.write(Array(form.text(verdict).utf8), to: path)
        }
        Console.print(json ? JSONValue.object(verdict.json).text() : verdict.text)
        if !verdict.passed { throw ExitCode(FailureKind.parity.rawValue) }
    }
}

extension Precision: ExpressibleByArgument {}
