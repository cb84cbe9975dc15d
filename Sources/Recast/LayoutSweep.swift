import Calibration
import Checkpoints
import Conversion
import Parity
import Quantization
import ReferenceModels
import Runtime
import StrictJSON
import Sweeps
import Tensors

/// Layouts, quantizers and recipes to be measured against each other: all that `recast sweep` takes.
public struct LayoutSweepRequest: Sendable {
    /// What a mix of the layouts is looked for.
    public enum Target: Sendable, Equatable {
        /// The best whose output takes at most so many bytes.
        case bytes(Int)
        /// The best with so many stored bits a quantized weight.
        case bits(Double)
        /// The smallest of at most this mean KL divergence, in nats.
        case kld(Double)
    }

    /// A directory, a tensor file, or an index file.
    public var source: String
    /// Sequences to measure divergence on.
    public var tokens: TokenSource
    /// The page to write, `.html`; the same name with `.json` and `.csv` is written beside it, and with `.journal` what was measured so far.
    public var report: String
    /// Layouts to try, by name.
    public var layouts: [String] = []
    /// Quantizers to try; the first is the one that mixes are made with.
    public var quantizers = ["rtn"]
    /// Recipes to try: a YAML file, and the layout of weights that no rule names.
    public var recipes: [(path: String, layout: String)] = []
    /// Sequences for quantizers to learn from; other text than ``tokens``.
    public var calibration: TokenSource?
    /// A file of ``StatisticsRequest``, for the quantizer `imatrix`.
    public var statistics: String?
    /// Whether every kind of weight in every layer is measured by itself too.
    public var measuresSensitivity = false
    /// A mix that is to be found.
    public var target: Target?
    /// The command for the page.
    public var command = ""
    /// Memory and threads.
    public var options = RunOptions()

    /// A request with defaults for everything else.
    public init(_ source: String, tokens: TokenSource, report: String) {
        self.source = source
        self.tokens = tokens
        self.report = report
    }

    /// - Throws: ``ConversionFailure`` if a quantizer or recipe is not known.
    package func request() throws -> SweepRequest {
        let named = try quantizers.map { name in
            guard let quantizer = QuantizerName(rawValue: name) else { throw QuantizationEvidence.unknown(name) }
            return quantizer
        }
        guard !named.isEmpty else { throw ConversionFailure.usage("--quantizers names none") }
        var request = SweepRequest(layouts: layouts, quantizers: named, measuresSensitivity: measuresSensitivity)
        request.target =
            switch target {
            case .bytes(let bytes): .bytes(bytes)
            case .bits(let bits): .bits(bits)
            case .kld(let kld): .kld(kld)
            case nil: nil
            }
        request.recipes = try recipes.map { ($0.path, $0.layout, try Recipe(reading: $0.path)) }
        return request
    }
}

/// What a sweep measured.
public struct LayoutSweepReport: Sendable {
    package let output: SweepOutput

    /// The figures for people.
    public var text: String { output.text }

    /// The figures for programs: one JSON document, `schema` 1.
    public var json: String { JSONValue.object(output.json).text() }

    /// Points that could not be judged, as their figures are not finite.
    public var unjudged: [String] { output.unjudged.map(\.name) }
}

/// Measures layouts without writing checkpoints: weights are quantized in flight inside the forward pass.
public enum LayoutSweep {
    /// - Returns: a work that tells what it measures; stopped, it goes on from its journal when it is run again.
    /// - Throws: while iterated, a ``Failure``.
    public static func run(_ request: LayoutSweepRequest) -> Work<String, LayoutSweepReport> {
        Work { stop, tell in
            try OutputPath.check(request.report)
            guard request.report.hasSuffix(".html") else {
                throw ConversionFailure.usage("\(request.report): the report is a page that ends in .html")
            }
            MemoryBudget.process.restrict(to: request.options.memory)
            ProcessFigures.keepFreedMemory()
            let checkpoint = try Checkpoint(opening: request.source)
            let sweep = try request.request()
            let evaluation = try request.tokens.read(tokenizerOf: checkpoint)
            let learning = try request.calibration?.read(tokenizerOf: checkpoint)
            let needs = Set(sweep.quantizers + sweep.recipes.flatMap { $0.recipe.rules.compactMap(\.quantizer) })
            if let hungry = sweep.quantizers.first(where: { $0.needs == .hessian }) ?? needs.first(where: { $0.needs == .hessian }), learning == nil {
                throw CalibrationFailure.needsTokens(hungry)
            }
            let known = try request.statistics.map { try InputStatistics(reading: $0) }
            let isHungry = needs.contains { $0.needs != .nothing }
            let first = try QuantizationEvidence(
                for: needs, tokens: isHungry ? learning : nil, statistics: isHungry ? known : nil, settings: sweep.settings)
            let statistics = try first.statistics(of: checkpoint, request.options, stop) { _, _ in }
            // As a conversion puts it, so that both make the same bytes of the same evidence.
            let evidence = try QuantizationEvidence(
                for: needs, tokens: isHungry ? learning : nil, statistics: isHungry ? statistics : nil, settings: sweep.settings)
            let result = try Sweep(
                checkpoint, sweep, evaluation: evaluation, calibration: learning, statistics: statistics, evidence: evidence.summary,
                options: request.options, stop: stop, progress: { tell(.progress($0)) }
            ).run(journalPath: request.report + ".journal")
            _ = try checkpoint.source.conclude()
            let output = SweepOutput(
                result, subject: ParitySubject(reference: request.source, candidate: "", command: request.command), tokens: evaluation.count)
            try output.write(stem: String(request.report.dropLast(".html".count)))
            return LayoutSweepReport(output: output)
        }
    }
}
