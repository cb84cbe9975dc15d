import ArgumentParser
import Recast

struct SweepCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sweep", abstract: "Measures layouts, quantizers and recipes against each other, and finds a mix within a budget.",
        discussion: """
            Nothing is converted: weights are quantized in flight inside the forward pass. A sweep that was stopped goes on when the
            same command is given again; what it has measured is kept beside the report, in a file that ends in .journal.
            """)

    @Argument(help: "A directory, a tensor file, or an index file.") var source: String
    @Option(help: ArgumentHelp("Layouts to try, separated by commas.", valueName: "layouts")) var layouts = ""
    @Option(
        help: ArgumentHelp("Quantizers to try, separated by commas; the first is the one that mixes are made with.", valueName: "quantizers"))
    var quantizers = "rtn"
    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Recipes to try: LAYOUT:FILE, the layout being that of weights which no rule names.", valueName: "layout:file"))
    var recipes: [String] = []
    @Option(help: ArgumentHelp("Sequences to measure divergence on.", valueName: "file")) var tokens: String
    @Option(help: ArgumentHelp("Sequences for quantizers to learn from; other text than --tokens.", valueName: "file")) var calibration: String?
    @Option(help: ArgumentHelp("What `recast calibrate` wrote, for the quantizer imatrix.", valueName: "file")) var statistics: String?
    @Option(help: ArgumentHelp("The page to write; the same name with .json and .csv beside it.", valueName: "file.html")) var report: String
    @Flag(help: "Also measure every kind of weight in every layer by itself.") var sensitivity = false
    @Option(help: ArgumentHelp("Find the best mix of the layouts within this size of the output.", valueName: "size")) var budget: SizeArgument?
    @Option(help: ArgumentHelp("Find the best mix of the layouts with this many stored bits a weight.", valueName: "bits")) var bits: Double?
    @Option(help: ArgumentHelp("Find the smallest mix of the layouts within this mean KLD.", valueName: "nats")) var maxKld: Double?
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?
    @Flag(help: "The results as one JSON document on standard output.") var json = false
    @Flag(help: "No progress.") var quiet = false

    func validate() throws {
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
        if layouts.isEmpty, recipes.isEmpty { throw ValidationError("give --layouts or --recipes to try") }
        if !report.hasSuffix(".html") { throw ValidationError("--report \(report): the report is a page that ends in .html") }
        let targets = [budget != nil, bits != nil, maxKld != nil].count { $0 }
        if targets > 1 { throw ValidationError("--budget, --bits and --max-kld exclude each other") }
        if targets > 0 || sensitivity, layouts.isEmpty { throw ValidationError("give the layouts to mix with --layouts") }
        if let bits, !(bits > 0 && bits <= 32) { throw ValidationError("--bits must be between 0 and 32") }
        if let maxKld, !(maxKld > 0) { throw ValidationError("--max-kld must be above 0") }
        _ = try request()
    }

    private func request() throws -> SweepRequest {
        let named = try quantizers.split(separator: ",").map { name in
            guard let quantizer = QuantizerName(rawValue: String(name)) else {
                throw ValidationError("unknown quantizer \"\(name)\"; known are \(QuantizerName.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            return quantizer
        }
        guard !named.isEmpty else { throw ValidationError("--quantizers names none") }
        var request = SweepRequest(layouts: layouts.split(separator: ",").map(String.init), quantizers: named, measuresSensitivity: sensitivity)
        if let budget { request.target = .bytes(budget.bytes) }
        if let bits { request.target = .bits(bits) }
        if let maxKld { request.target = .kld(maxKld) }
        request.recipes = try recipes.map { entry in
            guard let colon = entry.firstIndex(of: ":"), colon != entry.startIndex else {
                throw ValidationError("--recipes \(entry): expected LAYOUT:FILE, as in int4-g128:experts.yaml")
            }
            let path = String(entry[entry.index(after: colon)...])
            return (path, String(entry[..<colon]), try Recipe(reading: path))
        }
        return request
    }

    func run() throws {
        try OutputPath.check(report)
        MemoryBudget.process.restrict(to: memory.bytes)
        ProcessFigures.keepFreedMemory()
        let interruption = Interruption()
        let checkpoint = try Checkpoint(opening: source)
        let request = try request()
        let options = RunOptions(memory: memory.bytes, jobs: jobs)
        let evaluation = try TokenBatch(reading: tokens)
        let learning = try calibration.map { try TokenBatch(reading: $0) }
        let needs = Set(request.quantizers + request.recipes.flatMap { $0.recipe.rules.compactMap(\.quantizer) })
        if let hungry = request.quantizers.first(where: { $0.needs == .hessian }) ?? needs.first(where: { $0.needs == .hessian }), learning == nil {
            throw CalibrationFailure.needsTokens(hungry)
        }
        if needs.contains(.imatrix), statistics == nil, learning == nil { throw CalibrationFailure.needsStatistics }
        var line = ProgressLine(isQuiet: quiet)
        defer { line.end() }
        var known = try statistics.map { try InputStatistics(reading: $0) }
        if known == nil, needs.contains(.imatrix), let learning {
            known = try StatisticsPass.statistics(of: checkpoint, tokens: learning, options: options, stop: interruption.token)
        }
        // As `convert` puts it, so that both make the same bytes of the same evidence.
        let evidence = QuantizationOptions.Evidence(needs: needs, tokens: learning, statistics: known, settings: request.settings)
        let sweep = try Sweep(
            checkpoint, request, evaluation: evaluation, calibration: learning, statistics: known, evidence: evidence.summary, options: options,
            stop: interruption.token, progress: { text in if !quiet { Console.error(text) } })
        let result = try sweep.run(journalPath: report + ".journal")
        let output = SweepOutput(
            result, subject: ParitySubject(reference: source, candidate: "", command: CommandLine.arguments.commandText), tokens: evaluation.count)
        try output.write(stem: String(report.dropLast(".html".count)))
        Console.print(json ? JSONValue.object(output.json).text() : output.text)
        if !output.unjudged.isEmpty { throw ExitCode(FailureKind.parity.rawValue) }
    }
}
