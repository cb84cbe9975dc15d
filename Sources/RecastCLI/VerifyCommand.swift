import ArgumentParser
import Foundation
import Recast

struct VerifyCommand: AsyncParsableCommand {
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
    @Option(help: "What the inner norms of latent attention add: 1e-6 as transformers, or rms_norm_eps as config, which vLLM and SGLang take.")
    var latentNorms: LatentNorms = .transformers
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
    @OptionGroup var resources: ResourceOptions
    @OptionGroup var progress: ProgressOptions
    @Option(
        help: ArgumentHelp(
            "Also write the verdict as .html, .json, JUnit .xml, or a verification card .yaml; may be given more than once.", valueName: "file"))
    var report: [String] = []
    @Flag(help: "One JSON document on standard output.") var json = false

    func validate() throws {
        for path in report where ParityReport(path: path) == nil {
            throw ValidationError("--report \(path): reports are files that end in .html, .json, .xml or .yaml")
        }
        for (name, bound) in [
            ("--max-kld", maxKld), ("--min-top1", minTop1), ("--max-perplexity-ratio", maxPerplexityRatio), ("--min-sqnr", minSqnr),
        ] {
            if let bound, !bound.isFinite { throw ValidationError("\(name) must be a number") }
        }
        if weightsOnly, sequences.source != nil { throw ValidationError("--weights-only excludes --tokens and --text") }
    }

    private var request: VerificationRequest {
        var request = VerificationRequest(candidate, against: reference)
        request.tokens = sequences.source
        request.weightsOnly = weightsOnly
        request.precision = precision
        request.latentNorms = latentNorms
        request.bounds = ParityBounds(
            exact: exact, minimumSQNR: minSqnr, maximumKLD: maxKld, minimumTop1: minTop1, maximumPerplexityRatio: maxPerplexityRatio)
        request.bounds.allowsMissingMTP = withoutMTP
        request.policy = policy
        request.claim = claim?.rawValue
        request.consumer = consumer?.name
        request.measuresNoiseFloor = noiseFloor
        request.saveReference = saveReference
        request.command = CommandLine.arguments.commandText
        request.options = resources.runOptions
        return request
    }

    func run() async throws {
        for path in report { try OutputPath.check(path) }
        let found = try await Verification.run(request).follow(progress) { progress, line in line.show { _ in progress.text } }
        try publish(found)
        if !found.passed { throw ExitCode(FailureKind.parity.rawValue) }
    }

    private func publish(_ found: VerificationReport) throws {
        for path in report { try found.write(to: path) }
        if GitHubAnnotations.isWanted(ProcessInfo.processInfo.environment) {
            // The runner reads workflow commands from both streams; with --json standard output is one document.
            let text = GitHubAnnotations.text(found.verdict, of: found.subject)
            if json { Console.error(text) } else { Console.print(text) }
        }
        Console.print(json ? found.json : found.text)
    }
}

extension Precision: ExpressibleByArgument {}
extension LatentNorms: ExpressibleByArgument {}
extension ParityClaim: ExpressibleByArgument {}
extension Consumer: ExpressibleByArgument {
    package init?(argument: String) {
        guard let known = Consumer.named(argument) else { return nil }
        self = known
    }

    package static var allValueStrings: [String] { all.map(\.name) }
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
