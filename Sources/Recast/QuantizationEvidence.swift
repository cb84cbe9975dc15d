import Calibration
import Checkpoints
import Conversion
import Quantization
import ReferenceModels
import Runtime

/// What quantizers learn from. Conversions and sweeps of the same evidence make the same bytes.
package struct QuantizationEvidence: Sendable {
    private let needs: Set<QuantizerName>
    private let tokens: TokenBatch?
    private let known: InputStatistics?
    private let settings: CalibrationSettings

    /// - Throws: ``CalibrationFailure`` if a quantizer needs what is not there, ``ConversionFailure`` if nobody needs what is.
    package init(for needs: Set<QuantizerName>, tokens: TokenBatch?, statistics: InputStatistics?, settings: CalibrationSettings) throws {
        if let hungry = needs.sorted(by: { $0.rawValue < $1.rawValue }).first(where: { $0.needs == .hessian }), tokens == nil {
            throw CalibrationFailure.needsTokens(hungry)
        }
        if needs.contains(where: { $0.needs == .moments }), statistics == nil, tokens == nil { throw CalibrationFailure.needsStatistics }
        if !needs.contains(where: { $0.needs != .nothing }), tokens != nil || statistics != nil {
            throw ConversionFailure.usage("--tokens, --text and --statistics are for the quantizers imatrix, gptq and awq")
        }
        self.needs = needs
        self.tokens = tokens
        known = statistics
        self.settings = settings
    }

    package static func unknown(_ quantizer: String) -> ConversionFailure {
        .usage("unknown quantizer \"\(quantizer)\"; known are \(QuantizerName.allCases.map(\.rawValue).joined(separator: ", "))")
    }

    /// What identifies the evidence: digests and settings.
    package var summary: String {
        var words: [String] = []
        if let tokens { words.append("\(tokens.count) tokens in \(tokens.ranges.count) sequences, \(tokens.digest)") }
        if let known { words.append("statistics \(known.digest)") }
        if needs.contains(where: { $0.needs == .hessian }) { words.append(settings.summary) }
        return words.joined(separator: "; ")
    }

    /// The statistics for importance, collected if there are none.
    package func statistics(
        of checkpoint: Checkpoint, _ options: RunOptions, _ stop: StopToken, progress: (_ layer: Int, _ layers: Int) -> Void
    ) throws -> InputStatistics? {
        guard known == nil, let tokens, needs.contains(where: { $0.needs == .moments }) else { return known }
        ProcessFigures.keepFreedMemory()
        return try StatisticsPass.statistics(of: checkpoint, tokens: tokens, options: options, stop: stop, progress: progress)
    }

    /// The stage that calibrates, if the plan has weights for it.
    package func stage(
        for plan: ConversionPlan, of checkpoint: Checkpoint, _ statistics: InputStatistics?,
        progress: @escaping @Sendable (_ layer: Int, _ layers: Int) -> Void, finished: @escaping @Sendable (CalibrationReport) -> Void
    ) -> Calibration? {
        guard let tokens, !plan.calibrated.isEmpty else { return nil }
        ProcessFigures.keepFreedMemory()
        return Calibration(checkpoint, tokens: tokens, settings: settings, statistics: statistics, progress: progress, finished: finished)
    }

    /// What a user should know of a calibration.
    package static func notes(_ report: CalibrationReport) -> [String] {
        [
            report.pooled.first.map {
                "\($0.name): \($0.tokens) tokens reached it, fewer than --expert-floor; quantized with the inputs of all tokens (\(report.pooled.count) weights)"
            },
            report.damped.first.map { "\($0.name): needed a damping of \($0.damping) (\(report.damped.count) groups of weights)" },
        ].compactMap { $0 }
    }
}
