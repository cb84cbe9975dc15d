import ArgumentParser
import Foundation
import Recast

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Measures how far a checkpoint is from a reference: weights, and with tokens the forward pass.",
        discussion: """
            Both may be in any layout; weights are compared by the values that the layouts define. With --tokens or --text both \
            checkpoints run through the same forward pass in lockstep, layer by layer. Where no bound is given, those of the conversion \
            that the two layouts show hold (--claim). Exit status 1 says that a bound does not hold.
            """)

    @Argument(help: "The checkpoint to compare with; or logits that `forward` wrote, or a file of --save-reference.") var reference: String
    @Argument(help: "The checkpoint to judge.") var candidate: String
    @Flag(help: "Every value must be equal.") var exact = false
    @Flag(help: "Compare the weights only.") var weightsOnly = false
    @OptionGroup var sequences: SequenceOptions
    @Option(help: "Arithmetic of the forward pass: f32, bf16 or fp8.") var precision: Precision = .f32
    @Option(help: ArgumentHelp("Fail if the mean KLD is above this.", valueName: "nats")) var maxKld: Double?
    @Option(help: ArgumentHelp("Fail if fewer positions prefer the same token.", valueName: "share")) var minTop1: Double?
    @Option(help: ArgumentHelp("Fail if the perplexity grows by more than this factor.", valueName: "ratio")) var maxPerplexityRatio: Double?
    @Option(help: ArgumentHelp("Fail if a weight's signal-to-noise ratio is below this many decibels.", valueName: "dB")) var minSqnr: Double?
    @Option(help: ArgumentHelp("Bounds in a YAML file, under the names of these options; options come first.", valueName: "file"))
    var policy: String?
    @Option(
        help: ArgumentHelp(
            "Whose default bounds hold: \(ParityClaim.allCases.map(\.rawValue).joined(separator: ", ")); by default what the layouts of each weight show."
        ))
    var claim: ParityClaim?
    @Flag(name: .customLong("without-mtp"), help: "The candidate may lack the reference's multi-token-prediction modules.") var withoutMTP = false
    @Option(name: .customLong("for"), help: "Check the contract of a consumer: \(Consumer.all.map(\.name).joined(separator: ", ")).")
    var consumer: Consumer?
    @Flag(inversion: .prefixedNo, help: "Also run the reference in another precision, to show what difference is mere rounding.")
    var noiseFloor = true
    @Option(help: ArgumentHelp("Keep a compact form of the reference's logits, to verify against without the reference.", valueName: "file"))
    var saveReference: String?
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?
    @Option(
        help: ArgumentHelp(
            "Also write the verdict as .html, .json, JUnit .xml, or a verification card .yaml; may be given more than once.", valueName: "file"))
    var report: [String] = []
    @Flag(help: "One JSON document on standard output.") var json = false

    func validate() throws {
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
        for path in report where ParityReport(path: path) == nil {
            throw ValidationError("--report \(path): reports are files that end in .html, .json, .xml or .yaml")
        }
        for (name, bound) in [
            ("--max-kld", maxKld), ("--min-top1", minTop1), ("--max-perplexity-ratio", maxPerplexityRatio), ("--min-sqnr", minSqnr),
        ] {
            if let bound, !bound.isFinite { throw ValidationError("\(name) must be a number") }
        }
        if weightsOnly, sequences.isGiven { throw ValidationError("--weights-only excludes --tokens and --text") }
    }

    func run() throws {
        for path in report + (saveReference.map { [$0] } ?? []) { try OutputPath.check(path) }
        MemoryBudget.process.restrict(to: memory.bytes)
        let interruption = Interruption()
        let options = RunOptions(memory: memory.bytes, jobs: jobs)
        let left = try ParityReference(opening: reference)
        let right = try Checkpoint(opening: candidate)
        let rules = try policy.map { try ParityPolicy(reading: $0) }
        var bounds = ParityBounds(
            exact: exact, minimumSQNR: minSqnr, maximumKLD: maxKld, minimumTop1: minTop1, maximumPerplexityRatio: maxPerplexityRatio
        ).filled(from: rules?.bounds ?? ParityBounds())
        bounds.allowsMissingMTP = bounds.allowsMissingMTP || withoutMTP
        let tokens = weightsOnly ? nil : try sequences.read(tokenizerOf: right) ?? left.tokens
        try check(bounds, left, hasTokens: tokens != nil)

        var audit: WeightAudit?
        if let checkpoint = left.checkpoint {
            audit = try WeightAudit(reference: checkpoint, candidate: right, options: options, stop: interruption.token)
        }
        var trial: ForwardTrial?
        if let tokens, audit.map({ $0.missing.isEmpty && $0.reshaped.isEmpty }) ?? true {
            ProcessFigures.keepFreedMemory()
            let recorder =
                saveReference == nil
                ? nil : try CompactReference.Recorder(tokens, vocabulary: try ModelConfiguration(config: right.config).vocabulary)
            var line = ProgressLine(isQuiet: false)
            defer { line.end() }
            trial = try ForwardTrial(
                left, right, tokens: tokens, precision: precision, noiseFloor: noiseFloor, recorder: recorder, options: options,
                stop: interruption.token, progress: { layer, layers in line.show { _ in "layer \(layer + 1) of \(layers)" } })
            if let saveReference { try recorder?.write(to: saveReference) }
        }
        let claims = (claim ?? rules?.claim).map { ParityClaims($0) } ?? left.checkpoint.map { ParityClaims(from: $0, to: right) }
        let verdict = ParityVerdict(
            weights: audit, forward: trial, consumer: consumer.map { ConsumerContract($0, right).report() }, bounds: bounds, claims: claims)
        try publish(verdict)
        if !verdict.passed { throw ExitCode(FailureKind.parity.rawValue) }
    }

    /// Bounds and options that ask for what is not there are mistakes.
    private func check(_ bounds: ParityBounds, _ left: ParityReference, hasTokens: Bool) throws {
        let asked = [
            maxKld.map { _ in "--max-kld" }, minTop1.map { _ in "--min-top1" }, maxPerplexityRatio.map { _ in "--max-perplexity-ratio" },
            saveReference.map { _ in "--save-reference" },
        ].compactMap { $0 }
        if !hasTokens, !asked.isEmpty { throw ParityFailure.needsTokens(asked) }
        if !hasTokens, policy != nil, bounds.needsForward { throw ParityFailure.needsTokens(["--policy"]) }
        guard left.checkpoint == nil else { return }
        let weights = [
            exact ? "--exact" : nil, weightsOnly ? "--weights-only" : nil, minSqnr.map { _ in "--min-sqnr" },
            saveReference.map { _ in "--save-reference" },
        ]
        if let option = weights.lazy.compactMap({ $0 }).first { throw ParityFailure.needsCheckpoint(option: option, path: reference) }
        if !hasTokens { throw ParityFailure.needsTokens([reference]) }
        // Without weights no layout shows a claim: without a bound anything would pass.
        if !bounds.needsForward, claim == nil, policy == nil, consumer == nil { throw ParityFailure.needsBounds(path: reference) }
    }

    private func publish(_ verdict: ParityVerdict) throws {
        let subject = ParitySubject(reference: reference, candidate: candidate, command: CommandLine.arguments.commandText)
        for path in report {
            guard let form = ParityReport(path: path) else { continue }
            try FileTree.write(Array(form.text(verdict, of: subject).utf8), to: path)
        }
        let environment = ProcessInfo.processInfo.environment
        if GitHubAnnotations.isWanted(environment) {
            // The runner reads workflow commands from both streams; with --json standard output is one document.
            let text = GitHubAnnotations.text(verdict, of: subject)
            if json { Console.error(text) } else { Console.print(text) }
        }
        Console.print(json ? JSONValue.object(verdict.json).text() : verdict.text)
    }
}

extension Precision: ExpressibleByArgument {}
extension ParityClaim: ExpressibleByArgument {}
extension Consumer: ExpressibleByArgument {
    public init?(argument: String) {
        guard let known = Consumer.named(argument) else { return nil }
        self = known
    }

    public static var allValueStrings: [String] { all.map(\.name) }
}

extension [String] {
    /// A command as one would type it: the program by its name, arguments quoted where a shell would split them.
    var commandText: String {
        let program = first.map { $0.split(separator: "/").last.map(String.init) ?? $0 } ?? "recast"
        let safe = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%")
        return ([program] + dropFirst().map { $0.allSatisfy(safe.contains) && !$0.isEmpty ? $0 : "'" + $0.replacing("'", with: "'\\''") + "'" })
            .joined(separator: " ")
    }
}
