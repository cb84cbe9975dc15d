import Architectures
import Checkpoints
import Consumers
import Conversion
import Parity
import ReferenceModels
import Runtime
import StrictJSON
import Tensors

/// What is compared with what, and what must hold: all that `recast verify` takes.
public struct VerificationRequest: Sendable {
    /// The checkpoint to compare with; or logits of ``ForwardRequest``, or a file of ``saveReference``.
    public var reference: String
    /// The checkpoint to judge.
    public var candidate: String
    /// Sequences for the forward pass; nil to compare the weights only, or with the tokens that the reference carries.
    public var tokens: TokenSource?
    /// Compare the weights only.
    public var weightsOnly = false
    /// Arithmetic of the forward pass.
    public var precision = Precision.f32
    /// What the inner norms of latent attention add, where readers of the model differ.
    public var latentNorms = LatentNorms.transformers
    /// What must hold. What is nil here holds as ``policy`` or the claim says.
    public var bounds = ParityBounds()
    /// A YAML file of bounds.
    public var policy: String?
    /// Whose default bounds hold, by name; nil for what the layouts of each weight show.
    public var claim: String?
    /// A program whose contract is checked: `vllm`, `sglang`, `transformers`, `mlx`, ...
    public var consumer: String?
    /// Also run the reference in another precision, to show what difference is mere rounding.
    public var measuresNoiseFloor = true
    /// Keep a compact form of the reference's logits in this file.
    public var saveReference: String?
    /// The command for reports that people keep.
    public var command = ""
    /// Memory and threads.
    public var options = RunOptions()

    /// A request with defaults for everything else.
    public init(_ candidate: String, against reference: String) {
        self.candidate = candidate
        self.reference = reference
    }
}

/// How far a checkpoint is from another, and whether that is within bounds.
public struct VerificationReport: Sendable {
    package let verdict: ParityVerdict
    package let subject: ParitySubject

    /// Whether something was judged, and every bound holds.
    public var passed: Bool { verdict.passed }

    /// The bounds that do not hold, a sentence each.
    public var failures: [String] { verdict.failures }

    /// What was tested and what came out, in one sentence.
    public var claim: String { verdict.claim }

    /// The figures for people.
    public var text: String { verdict.text }

    /// The figures for programs: one JSON document, `schema` 1.
    public var json: String { JSONValue.object(verdict.json).text() }

    /// Writes the verdict in the form that the file's ending asks for: `.json`, `.xml` (JUnit), `.html`, `.yaml` (a verification card).
    /// - Throws: a ``Failure`` if the ending is another, or the file cannot be written.
    public func write(to path: String) throws {
        guard let form = ParityReport(path: path) else {
            throw ConversionFailure.usage("\(path): reports are files that end in .html, .json, .xml or .yaml")
        }
        try FileTree.write(Array(form.text(verdict, of: subject).utf8), to: path)
    }
}

/// Compares checkpoints: weights by the values that their layouts define, and with tokens the forward passes, layer by layer in lockstep.
public enum Verification {
    /// - Returns: a work that tells the layer it is at, and ends with the report. A bound that does not hold is no error but in the report.
    /// - Throws: while iterated, a ``Failure`` if something cannot be read, or a bound is asked for that cannot be judged.
    public static func run(_ request: VerificationRequest) -> Work<LayerProgress, VerificationReport> {
        Work { stop, tell in try carryOut(request, stop) { tell(.progress(LayerProgress(layer: $0, layers: $1))) } }
    }

    private static func carryOut(
        _ request: VerificationRequest, _ stop: StopToken, _ progress: @escaping (Int, Int) -> Void
    ) throws -> VerificationReport {
        if let path = request.saveReference { try OutputPath.check(path) }
        MemoryBudget.process.restrict(to: request.options.memory)
        let consumer = try request.consumer.map { name in
            guard let known = Consumer.named(name) else {
                throw ConversionFailure.usage("unknown consumer \"\(name)\"; known are \(Consumer.all.map(\.name).joined(separator: ", "))")
            }
            return known
        }
        let asked = try request.claim.map { name in
            guard let known = ParityClaim(rawValue: name) else {
                throw ConversionFailure.usage(
                    "unknown claim \"\(name)\"; known are \(ParityClaim.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            return known
        }
        let left = try ParityReference(opening: request.reference)
        let right = try Checkpoint(opening: request.candidate)
        let rules = try request.policy.map { try ParityPolicy(reading: $0) }
        var bounds = request.bounds.filled(from: rules?.bounds ?? ParityBounds())
        bounds.allowsMissingMTP = bounds.allowsMissingMTP || request.bounds.allowsMissingMTP
        let tokens = request.weightsOnly ? nil : try request.tokens?.read(tokenizerOf: right) ?? left.tokens
        try check(request, bounds, left, hasTokens: tokens != nil)

        var audit: WeightAudit?
        if let checkpoint = left.checkpoint {
            audit = try WeightAudit(reference: checkpoint, candidate: right, options: request.options, stop: stop)
        }
        var trial: ForwardTrial?
        if let tokens, audit.map({ $0.missing.isEmpty && $0.reshaped.isEmpty }) ?? true {
            ProcessFigures.keepFreedMemory()
            let recorder =
                request.saveReference == nil
                ? nil : try CompactReference.Recorder(tokens, vocabulary: try ModelConfiguration(config: right.config).vocabulary)
            trial = try ForwardTrial(
                left, right, tokens: tokens, precision: request.precision, latentNorms: request.latentNorms, noiseFloor: request.measuresNoiseFloor,
                recorder: recorder,
                options: request.options, stop: stop, progress: progress)
            if let saveReference = request.saveReference { try recorder?.write(to: saveReference) }
        }
        // Bytes that are known to be wrong prove nothing.
        _ = try left.checkpoint?.source.conclude()
        _ = try right.source.conclude()
        let claims = (asked ?? rules?.claim).map { ParityClaims($0) } ?? left.checkpoint.map { ParityClaims(from: $0, to: right) }
        let verdict = ParityVerdict(
            weights: audit, forward: trial, consumer: consumer.map { ConsumerContract($0, right).report() }, bounds: bounds, claims: claims)
        let subject = ParitySubject(
            reference: Self.name(request.reference, left.checkpoint), candidate: Self.name(request.candidate, right), command: request.command)
        return VerificationReport(verdict: verdict, subject: subject)
    }

    /// A source elsewhere is named with the commit that was read.
    private static func name(_ given: String, _ checkpoint: Checkpoint?) -> String {
        checkpoint.map { $0.address.contains("://") ? $0.address : given } ?? given
    }

    /// Bounds and options that ask for what is not there are mistakes.
    private static func check(_ request: VerificationRequest, _ bounds: ParityBounds, _ left: ParityReference, hasTokens: Bool) throws {
        let given = request.bounds
        let asked = [
            given.maximumKLD.map { _ in "--max-kld" }, given.minimumTop1.map { _ in "--min-top1" },
            given.maximumPerplexityRatio.map { _ in "--max-perplexity-ratio" }, request.saveReference.map { _ in "--save-reference" },
        ].compactMap { $0 }
        if !hasTokens, !asked.isEmpty { throw ParityFailure.needsTokens(asked) }
        if !hasTokens, request.policy != nil, bounds.needsForward { throw ParityFailure.needsTokens(["--policy"]) }
        guard left.checkpoint == nil else { return }
        let weights = [
            given.exact ? "--exact" : nil, request.weightsOnly ? "--weights-only" : nil, given.minimumSQNR.map { _ in "--min-sqnr" },
            request.saveReference.map { _ in "--save-reference" },
        ]
        if let option = weights.lazy.compactMap({ $0 }).first { throw ParityFailure.needsCheckpoint(option: option, path: request.reference) }
        if !hasTokens { throw ParityFailure.needsTokens([request.reference]) }
        // Without weights no layout shows a claim: without a bound anything would pass.
        if !bounds.needsForward, request.claim == nil, request.policy == nil, request.consumer == nil {
            throw ParityFailure.needsBounds(path: request.reference)
        }
    }
}

/// How far a pass through the layers is.
public struct LayerProgress: Sendable {
    /// The layer at hand, from 0.
    public var layer: Int
    /// How many there are.
    public var layers: Int
}
