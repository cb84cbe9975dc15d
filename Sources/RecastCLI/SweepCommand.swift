import ArgumentParser
import Recast

struct SweepCommand: AsyncParsableCommand {
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
    @OptionGroup var resources: ResourceOptions
    @OptionGroup var progress: ProgressOptions
    @Flag(help: "The results as one JSON document on standard output.") var json = false
    @Flag(help: "No progress.") var quiet = false

    func validate() throws {
        if layouts.isEmpty, recipes.isEmpty { throw ValidationError("give --layouts or --recipes to try") }
        if !report.hasSuffix(".html") { throw ValidationError("--report \(report): the report is a page that ends in .html") }
        let targets = [budget != nil, bits != nil, maxKld != nil].count { $0 }
        if targets > 1 { throw ValidationError("--budget, --bits and --max-kld exclude each other") }
        if targets > 0 || sensitivity, layouts.isEmpty { throw ValidationError("give the layouts to mix with --layouts") }
        if let bits, !(bits > 0 && bits <= 32) { throw ValidationError("--bits must be between 0 and 32") }
        if let maxKld, !(maxKld > 0) { throw ValidationError("--max-kld must be above 0") }
        try asMistake { try request().request() }
    }

    private func request() throws -> LayoutSweepRequest {
        var request = LayoutSweepRequest(source, tokens: .file(tokens), report: report)
        request.layouts = layouts.split(separator: ",").map(String.init)
        request.quantizers = quantizers.split(separator: ",").map(String.init)
        request.recipes = try recipes.map { entry in
            guard let colon = entry.firstIndex(of: ":"), colon != entry.startIndex else {
                throw ValidationError("--recipes \(entry): expected LAYOUT:FILE, as in int4-g128:experts.yaml")
            }
            return (String(entry[entry.index(after: colon)...]), String(entry[..<colon]))
        }
        request.calibration = calibration.map(TokenSource.file)
        request.statistics = statistics
        request.measuresSensitivity = sensitivity
        request.target = budget.map { .bytes($0.bytes) } ?? bits.map { .bits($0) } ?? maxKld.map { .kld($0) }
        request.command = CommandLine.arguments.commandText
        request.options = resources.runOptions
        return request
    }

    func run() async throws {
        let result = try await LayoutSweep.run(try request()).follow(progress, isQuiet: quiet) { text, line in line.tell(text) }
        Console.print(json ? result.json : result.text)
        if !result.unjudged.isEmpty { throw ExitCode(FailureKind.parity.rawValue) }
    }
}
