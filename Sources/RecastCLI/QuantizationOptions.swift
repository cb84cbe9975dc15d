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

    private var settings: CalibrationSettings {
        var settings = CalibrationSettings()
        settings.damping = damping
        settings.ordersByActivation = !columnOrder
        settings.searchesScales = !nearestScales
        settings.expertFloor = expertFloor
        settings.keepsRouting = keepRouting
        return settings
    }

    /// Reads what the quantizers ask for.
    func evidence(_ recipe: Recipe, tokenizerOf checkpoint: Checkpoint) throws -> Evidence {
        let needs = Set(recipe.rules.compactMap(\.quantizer) + [quantizer])
        let tokens = try sequences.read(tokenizerOf: checkpoint)
        if let hungry = needs.sorted(by: { $0.rawValue < $1.rawValue }).first(where: { $0.needs == .hessian }), tokens == nil {
            throw CalibrationFailure.needsTokens(hungry)
        }
        if needs.contains(.imatrix), statistics == nil, tokens == nil { throw CalibrationFailure.needsStatistics }
        if !needs.contains(where: { $0.needs != .nothing }), tokens != nil || statistics != nil {
            throw ValidationError("--tokens, --text and --statistics are for the quantizers imatrix, gptq and awq")
        }
        return Evidence(
            needs: needs, tokens: tokens, statistics: try statistics.map { try InputStatistics(reading: $0) }, settings: settings)
    }

    struct Evidence {
        var needs: Set<QuantizerName>
        var tokens: TokenBatch?
        var statistics: InputStatistics?
        var settings: CalibrationSettings

        /// What identifies the evidence: digests and settings.
        var summary: String {
            var words: [String] = []
            if let tokens { words.append("\(tokens.count) tokens in \(tokens.ranges.count) sequences, \(tokens.digest)") }
            if let statistics { words.append("statistics \(statistics.digest)") }
            if needs.contains(where: { $0.needs == .hessian }) { words.append(settings.summary) }
            return words.joined(separator: "; ")
        }

        /// The statistics for importance, made if there are none, and the stage that calibrates.
        func prepare(_ checkpoint: Checkpoint, _ plan: ConversionPlan, _ options: RunOptions, _ stop: StopToken, isQuiet: Bool) throws -> (
            statistics: InputStatistics?, stage: Calibration?
        ) {
            guard let tokens else { return (statistics, nil) }
            ProcessFigures.keepFreedMemory()
            var statistics = statistics
            if needs.contains(.imatrix), statistics == nil {
                var line = ProgressLine(isQuiet: isQuiet)
                defer { line.end() }
                statistics = try StatisticsPass.statistics(of: checkpoint, tokens: tokens, options: options, stop: stop) { layer, layers in
                    line.show { _ in "statistics of layer \(layer + 1) of \(layers)" }
                }
            }
            guard !plan.calibrated.isEmpty else { return (statistics, nil) }
            let stage = Calibration(
                checkpoint, tokens: tokens, settings: settings, statistics: statistics,
                progress: { layer, layers in if !isQuiet { Console.error("calibrating layer \(layer + 1) of \(layers)") } },
                finished: { report in if !isQuiet { Self.show(report) } })
            return (statistics, stage)
        }

        private static func show(_ report: CalibrationReport) {
            if let first = report.pooled.first {
                Console.error(
                    "note: \(first.name): \(first.tokens) tokens reached it, fewer than --expert-floor; quantized with the inputs of all tokens (\(report.pooled.count) weights)"
                )
            }
            if let first = report.damped.first {
                Console.error("note: \(first.name): needed a damping of \(first.damping) (\(report.damped.count) groups of weights)")
            }
        }
    }
}

struct CalibrateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "calibrate", abstract: "Collects statistics of every weight's inputs, for `convert --quantizer imatrix --statistics`.")

    @Argument(help: "A directory, a tensor file, or an index file.") var source: String
    @OptionGroup var sequences: SequenceOptions
    @Option(help: ArgumentHelp("The file to write.", valueName: "file")) var output: String
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?

    func validate() throws {
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
        if !sequences.isGiven { throw ValidationError("give the sequences to run with --tokens or --text") }
    }

    func run() throws {
        try OutputPath.check(output)
        MemoryBudget.process.restrict(to: memory.bytes)
        ProcessFigures.keepFreedMemory()
        let interruption = Interruption()
        let checkpoint = try Checkpoint(opening: source)
        guard let tokens = try sequences.read(tokenizerOf: checkpoint) else { return }
        var line = ProgressLine(isQuiet: false)
        defer { line.end() }
        let statistics = try StatisticsPass.statistics(
            of: checkpoint, tokens: tokens, options: RunOptions(memory: memory.bytes, jobs: jobs), stop: interruption.token
        ) { layer, layers in line.show { _ in "layer \(layer + 1) of \(layers)" } }
        try statistics.write(to: output)
        line.end()
        let counts = statistics.entries.values.map(\.count)
        Console.print(
            "\(counts.count.grouped) weights, \(tokens.count.grouped) tokens; reached by \((counts.min() ?? 0).grouped) tokens at least, \(counts.count { $0 == 0 }) by none; peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
        )
    }
}
