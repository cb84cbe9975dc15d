import Foundation
import Parity
import Recast
import TestSupport
import Testing

/// Forward passes side by side: in batches, against files, with the multi-token-prediction module.
@Suite struct ForwardTrialTests {
    static let tokens = (try? TokenBatch(reading: Fixtures.path("tokens-short.json"))) ?? TokenBatch([])

    func int4(_ folder: TemporaryDirectory) throws -> Checkpoint {
        try convert(Fixtures.fp8Model, folder.file("int4"), to: "int4-g32")
        return try Checkpoint(opening: folder.file("int4"))
    }

    @Test func figuresDoNotDependOnTheMemoryBudget() throws {
        let folder = try TemporaryDirectory()
        let (reference, candidate) = (try Checkpoint(opening: Fixtures.fp8Model), try int4(folder))
        let configuration = try ModelConfiguration(config: reference.config)
        let small = try #require(
            (1...64).lazy.map { $0 << 18 }.first { memory in
                (try? ActivationBudget(configuration, Self.tokens, passes: 3, memory: memory).batches.count).map { $0 > 2 } ?? false
            })
        let trials = try [small, 2 << 30].map {
            try ForwardTrial(.checkpoint(reference), candidate, tokens: Self.tokens, noiseFloor: true, options: RunOptions(memory: $0))
        }
        #expect(try ActivationBudget(configuration, Self.tokens, passes: 3, memory: 2 << 30).batches.count == 1)
        let (batched, whole) = (trials[0].comparison, trials[1].comparison)
        #expect(batched.predictions.divergences == whole.predictions.divergences && batched.mtp?.divergences == whole.mtp?.divergences)
        #expect(batched.predictions.logPerplexityDifference == whole.predictions.logPerplexityDifference)
        #expect(batched.layers.map(\.flippedExperts) == whole.layers.map(\.flippedExperts))
        #expect(zip(batched.layers, whole.layers).allSatisfy { abs($0.sqnr - $1.sqnr) < 1e-9 && $0.rows == $1.rows })
        #expect(trials[0].noiseFloor?.predictions.divergences == trials[1].noiseFloor?.predictions.divergences)
    }

    @Test func theMultiTokenPredictionIsCompared() throws {
        let folder = try TemporaryDirectory()
        let (reference, candidate) = (try Checkpoint(opening: Fixtures.fp8Model), try int4(folder))
        let same = try ForwardTrial(.checkpoint(reference), reference, tokens: Self.tokens).comparison
        let other = try ForwardTrial(.checkpoint(reference), candidate, tokens: Self.tokens).comparison
        let pairs = Self.tokens.ranges.reduce(0) { $0 + max(0, $1.count - 1) }
        #expect(same.mtp?.positions == pairs && same.mtp?.kld.maximum == 0 && same.mtp?.top1 == 1)
        #expect(other.mtp?.positions == pairs && (other.mtp?.kld.mean ?? 0) > 1e-4)
        #expect(same.mtp.map { $0.scoredTokens } == Self.tokens.ranges.reduce(0) { $0 + max(0, $1.count - 2) })
    }

    @Test func aFileOfLogitsStandsForItsCheckpoint() throws {
        let folder = try TemporaryDirectory()
        let checkpoint = try Checkpoint(opening: Fixtures.fp8Model)
        let run = try ForwardRun(checkpoint, tokens: Self.tokens)
        try run.execute(into: LogitsFile(folder.file("l.safetensors"), run.configuration, Self.tokens, hiddenStates: true))
        let reference = try ParityReference(opening: folder.file("l.safetensors"))
        #expect(reference.checkpoint == nil)
        let same = try ForwardTrial(reference, checkpoint, tokens: Self.tokens).comparison
        #expect(same.predictions.positions == Self.tokens.count && same.predictions.kld.maximum == 0 && same.predictions.top1 == 1)
        #expect(same.layers.count == 4 && same.layers.allSatisfy { $0.sqnr == .infinity && $0.rows == Self.tokens.count })
        let candidate = try int4(folder)
        let (byFile, bySide) = (
            try ForwardTrial(reference, candidate, tokens: Self.tokens).comparison,
            try ForwardTrial(.checkpoint(checkpoint), candidate, tokens: Self.tokens).comparison
        )
        #expect(byFile.predictions.divergences == bySide.predictions.divergences && byFile.layers.map(\.sqnr) == bySide.layers.map(\.sqnr))
        #expect(throws: ParityFailure.differentTokens(path: folder.file("l.safetensors"))) {
            try ForwardTrial(reference, candidate, tokens: TokenBatch([[1, 2, 3]]))
        }
    }

    /// What a compact reference measures is never above the whole divergence, and the whole never above it plus its own bound.
    @Test(arguments: [4, 32, 256, 384]) func aCompactReferenceBoundsWhatItHides(_ width: Int) throws {
        let folder = try TemporaryDirectory()
        let (checkpoint, candidate) = (try Checkpoint(opening: Fixtures.fp8Model), try int4(folder))
        let recorder = try CompactReference.Recorder(Self.tokens, vocabulary: 384, width: width)
        let whole = try ForwardTrial(.checkpoint(checkpoint), candidate, tokens: Self.tokens, recorder: recorder).comparison.predictions
        try recorder.write(to: folder.file("r.safetensors"))
        let reference = try ParityReference(opening: folder.file("r.safetensors"))
        #expect(reference.tokens == Self.tokens)
        let compact = try ForwardTrial(reference, candidate, tokens: Self.tokens).comparison.predictions
        #expect(compact.kld.mean <= whole.kld.mean + 1e-9 && whole.kld.mean <= compact.kld.mean + compact.hiddenDivergence + 1e-9)
        #expect((compact.hiddenDivergence == 0) == (width == 384))
        #expect(compact.top1 == whole.top1 && (width < 5 || compact.top5 == whole.top5))
        #expect(abs(compact.logPerplexityDifference - whole.logPerplexityDifference) < 1e-12 && compact.scoredTokens == whole.scoredTokens)
        if width >= 256 { #expect(whole.kld.mean - compact.kld.mean < 1e-5) }
    }

    @Test func damagedReferencesAreRefused() throws {
        let folder = try TemporaryDirectory()
        let recorder = try CompactReference.Recorder(TokenBatch([[1, 2, 3]]), vocabulary: 384, width: 8)
        recorder.add(try Activations(rows: 3, columns: 384))
        try recorder.write(to: folder.file("r.safetensors"))
        let good = try Data(contentsOf: URL(fileURLWithPath: folder.file("r.safetensors")))
        _ = try ParityReference(opening: folder.file("r.safetensors"))
        var random = SeededGenerator(11)
        var refused = 0
        for _ in 0..<3000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            if Bool.random(using: &random) { bytes = bytes.prefix(Int.random(in: 0...bytes.count, using: &random)) }
            try Data(bytes).write(to: URL(fileURLWithPath: folder.file("x.safetensors")))
            do {
                let reference = try ParityReference(opening: folder.file("x.safetensors"))
                _ = try ForwardTrial(reference, Checkpoint(opening: Fixtures.fp8Model), tokens: TokenBatch([[1, 2, 3]]))
            } catch is any Failure { refused += 1 }
        }
        #expect(refused > 1000)
    }
}
