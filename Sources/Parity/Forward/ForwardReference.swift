import Conversion
import ReferenceModels
import Runtime
import Tensors

/// Next-token distributions of a reference for a run of rows.
protocol ReferencePredictions: Sendable {
    func difference(_ row: Int, to candidate: LogProbabilities, target: Int?) -> PositionDifference
}

/// What a candidate's forward pass over one batch is held against: another pass, or what one left in a file.
protocol ForwardReference {
    /// Residual states after the next layer, as far as they are known, and the routing.
    func step() throws -> (hidden: HiddenRows?, routing: Routing?)
    func predictions(_ rows: Range<Int>) throws -> any ReferencePredictions
    /// Runs or finds the multi-token-prediction module.
    /// - Returns: how many of its rows, from the first, the reference knows.
    func beginMTP() throws -> Int
    func mtpPredictions(_ rows: Range<Int>) throws -> any ReferencePredictions
}

/// The first rows of a batch's residual stream.
struct HiddenRows {
    var values: Activations
    var count: Int
}

/// All logits of the reference.
struct FullPredictions: ReferencePredictions {
    let logits: Activations

    func difference(_ row: Int, to candidate: LogProbabilities, target: Int?) -> PositionDifference {
        let reference = LogProbabilities(logits[row], logits.columns)
        guard reference.isFinite, candidate.isFinite else {
            return .unjudged(target: target.map { (reference[$0], candidate[$0]) })
        }
        let (preferred, other) = (reference.ranked(5), candidate.ranked(5))
        return PositionDifference(
            divergence: reference.divergence(to: candidate),
            margin: preferred[0] == other[0] ? nil : Double(reference.logit(preferred[0]) - reference.logit(other[0])),
            sharedTop5: Set(preferred).intersection(other).count, target: target.map { (reference[$0], candidate[$0]) })
    }
}

/// A pass of another checkpoint, in lockstep.
final class PassReference: ForwardReference {
    let pass: ForwardPass
    private var mtp: MultiTokenPrediction?

    init(_ pass: ForwardPass) { self.pass = pass }

    func step() throws -> (hidden: HiddenRows?, routing: Routing?) {
        let routing = try pass.step()
        return (HiddenRows(values: pass.hidden, count: pass.hidden.rows), routing)
    }

    func predictions(_ rows: Range<Int>) throws -> any ReferencePredictions { FullPredictions(logits: try pass.logits(rows)) }

    func beginMTP() throws -> Int {
        mtp = try pass.multiTokenPrediction()
        return mtp?.count ?? 0
    }

    func mtpPredictions(_ rows: Range<Int>) throws -> any ReferencePredictions {
        guard let mtp else { throw ParityFailure.differentModels }
        return FullPredictions(logits: try mtp.logits(rows))
    }
}

/// Logits and hidden states in a safetensors file: what `recast forward` writes, or the golden outputs of another program.
///
/// `logits` F32 [n, t, vocabulary]; optionally `hidden.L` and `mtp.logits`, either [n, t, ...] or [t, ...] for the first sequence.
struct GoldenReference: ForwardReference {
    let file: LogitsReader
    let tokens: TokenBatch
    /// The number of the batch's first sequence in the file.
    let firstSequence: Int
    private final class Progress { var layer = 0 }
    private let progress = Progress()

    init(_ file: LogitsReader, tokens: TokenBatch, firstSequence: Int) {
        self.file = file
        self.tokens = tokens
        self.firstSequence = firstSequence
    }

    func step() throws -> (hidden: HiddenRows?, routing: Routing?) {
        progress.layer += 1
        let name = "hidden.\(progress.layer)"
        guard let covered = file.coverage(name, firstSequence: firstSequence, of: tokens.ranges) else { return (nil, nil) }
        let values = try file.rows(name, firstSequence: firstSequence, ranges: tokens.ranges, 0..<covered)
        return (HiddenRows(values: values, count: covered), nil)
    }

    func predictions(_ rows: Range<Int>) throws -> any ReferencePredictions {
        FullPredictions(logits: try file.rows("logits", firstSequence: firstSequence, ranges: tokens.ranges, rows))
    }

    private var mtpRows: [Range<Int>] { MultiTokenPrediction.rows(of: tokens) }

    func beginMTP() -> Int { file.coverage("mtp.logits", firstSequence: firstSequence, of: mtpRows) ?? 0 }

    func mtpPredictions(_ rows: Range<Int>) throws -> any ReferencePredictions {
        FullPredictions(logits: try file.rows("mtp.logits", firstSequence: firstSequence, ranges: mtpRows, rows))
    }
}

/// Compares rows in parallel.
func compareRows(
    _ reference: any ReferencePredictions, _ candidate: Activations, targets: [Int?], workers: Int
) throws -> [PositionDifference] {
    let results = Lock<[PositionDifference?]>(Array(repeating: nil, count: candidate.rows))
    let step = 8
    try ParallelLoop.run(count: ceilingDivide(candidate.rows, step), workers: workers, state: {}) { index, _ in
        for row in index * step..<min((index + 1) * step, candidate.rows) {
            let other = LogProbabilities(candidate[row], candidate.columns)
            let difference = reference.difference(row, to: other, target: targets[row])
            results.withLock { $0[row] = difference }
        }
    }
    return results.withLock { $0.compactMap { $0 } }
}
