import ArgumentParser
import Recast

struct ForwardCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forward", abstract: "Runs the reference forward pass and writes its logits.",
        discussion: "The logits are bit-identical for any number of jobs and any instruction set, so their digest can stand in a CI check.")

    @Argument(help: "A directory, a tensor file, or an index file.") var checkpoint: String
    @OptionGroup var sequences: SequenceOptions
    @Option(help: ArgumentHelp("The safetensors file to write.", valueName: "file")) var logits: String?
    @Option(help: ArgumentHelp("Write a compact form of the logits, for `verify` to compare with.", valueName: "file")) var saveReference: String?
    @Flag(help: "Write the residual stream after every layer too.") var hiddenStates = false
    @Option(help: "Arithmetic: f32, bf16 or fp8.") var precision: Precision = .f32
    @Option(help: "What the inner norms of latent attention add: 1e-6 as transformers, or rms_norm_eps as config, which vLLM and SGLang take.")
    var latentNorms: LatentNorms = .transformers
    @OptionGroup var resources: ResourceOptions
    @OptionGroup var progress: ProgressOptions

    func validate() throws {
        if sequences.source == nil { throw ValidationError("give the sequences to run with --tokens or --text") }
        if logits == nil, saveReference == nil { throw ValidationError("give a file to write with --logits or --save-reference") }
        if hiddenStates, logits == nil { throw ValidationError("--hidden-states go into the file of --logits") }
    }

    func run() async throws {
        guard let tokens = sequences.source else { return }
        var request = ForwardRequest(checkpoint, tokens: tokens)
        request.logits = logits
        request.saveReference = saveReference
        request.hiddenStates = hiddenStates
        request.precision = precision
        request.latentNorms = latentNorms
        request.options = resources.runOptions
        let report = try await ForwardEvaluation.run(request).follow(progress) { progress, line in line.show { _ in progress.text } }
        Console.print(
            "\(report.tokens.grouped) tokens, \(Figures.whole(Double(report.tokens) / report.seconds, in: 0...Int.max / 2).grouped) tokens/s, peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
        )
        // They are written all the same, for whoever looks for the cause.
        if report.notFinite > 0 { throw ReferenceFailure.notFinite(positions: report.notFinite, of: report.tokens) }
    }
}
