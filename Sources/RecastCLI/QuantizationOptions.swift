import ArgumentParser
import Recast

extension QuantizerName: ExpressibleByArgument {}

/// How codes and scales are chosen, and what is learnt from.
struct QuantizationOptions: ParsableArguments {
    @Option(help: "How codes and scales are chosen: \(QuantizerName.allCases.map(\.rawValue).joined(separator: ", ")).")
    var quantizer: QuantizerName = .rtn
    @OptionGroup var sequences: SequenceOptions
    @Option(help: ArgumentHelp("What `recast calibrate` wrote, for the quantizer imatrix.", valueName: "file")) var statistics: String?
    @Option(help: ArgumentHelp("gptq and awq: the share of the mean diagonal that is added to the inputs' second moments.", valueName: "share"))
    var damping = CalibrationSettings().damping
    @Option(
        help: ArgumentHelp(
            "gptq and awq: experts that fewer tokens reach are quantized with the inputs of all tokens.", valueName: "tokens"))
    var expertFloor = CalibrationSettings().expertFloor
    @Flag(help: "gptq: take columns from left to right instead of those with large inputs first.") var columnOrder = false
    @Flag(help: "gptq: keep the layout's round-to-nearest scales instead of searching better ones.") var nearestScales = false
    @Flag(help: "gptq and awq: send the calibration tokens to the experts that the original model chooses.") var keepRouting = false

    func validate() throws {
        if !(damping >= 0 && damping <= 1) { throw ValidationError("--damping must be between 0 and 1") }
        if expertFloor < 0 { throw ValidationError("--expert-floor must not be negative") }
    }

    /// Puts the options into a request.
    func fill(_ request: inout ConversionRequest) {
        request.quantizer = quantizer.rawValue
        request.tokens = sequences.source
        request.statistics = statistics
        request.calibration.damping = damping
        request.calibration.ordersByActivation = !columnOrder
        request.calibration.searchesScales = !nearestScales
        request.calibration.expertFloor = expertFloor
        request.calibration.keepsRouting = keepRouting
    }
}

struct CalibrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "calibrate", abstract: "Collects statistics of every weight's inputs, for `convert --quantizer imatrix --statistics`.")

    @Argument(help: "A directory, a tensor file, or an index file.") var source: String
    @OptionGroup var sequences: SequenceOptions
    @Option(help: ArgumentHelp("The file to write.", valueName: "file")) var output: String
    @OptionGroup var resources: ResourceOptions
    @OptionGroup var progress: ProgressOptions

    func validate() throws {
        if sequences.source == nil { throw ValidationError("give the sequences to run with --tokens or --text") }
    }

    func run() async throws {
        guard let tokens = sequences.source else { return }
        var request = StatisticsRequest(source, tokens: tokens, output: output)
        request.options = resources.runOptions
        let report = try await StatisticsCollection.run(request).follow(progress) { progress, line in line.show { _ in progress.text } }
        Console.print(
            "\(report.weights.grouped) weights, \(report.tokens.grouped) tokens; reached by \(report.fewestTokens.grouped) tokens at least, \(report.unreached) by none; peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
        )
    }
}
