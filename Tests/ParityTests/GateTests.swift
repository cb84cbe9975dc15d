import Foundation
import Parity
import Recast
import TestSupport
import Testing

/// Bounds: where they come from, and that each one bites.
@Suite struct GateTests {
    func policy(_ text: String) throws -> ParityPolicy { try ParityPolicy(yaml: text, path: "parity.yaml") }

    @Test func aPolicySaysWhatTheOptionsSay() throws {
        let policy = try policy(
            """
            claim: 4-bit
            exact: false
            min-sqnr: 12
            max-kld: 0.02
            max-kld-p99: 0.2
            min-top1: 0.96
            min-expert-agreement: 0.9
            max-perplexity-ratio: 1.01
            max-mtp-kld: 0.1
            weights:
              - match: "*.self_attn.*"
                exact: true
              - match: "re:.*experts\\\\..*"
                min-sqnr: 15
            """)
        let bounds = policy.bounds
        #expect(policy.claim == .fourBit && bounds.minimumSQNR == 12 && bounds.maximumKLD == 0.02 && bounds.maximumKLD99 == 0.2)
        #expect(
            bounds.minimumTop1 == 0.96 && bounds.minimumExpertAgreement == 0.9 && bounds.maximumPerplexityRatio == 1.01 && bounds.maximumMTPKLD == 0.1
        )
        #expect(bounds.weights.count == 2 && bounds.weights[0].exact && bounds.weights[1].minimumSQNR == 15 && bounds.needsForward)
        // Options come first.
        #expect(ParityBounds(maximumKLD: 0.5).filled(from: bounds).maximumKLD == 0.5)
    }

    @Test(arguments: [
        ("max-kdl: 1", "max-kdl"), ("max-kld: low", "max-kld"), ("exact: 3", "exact"), ("claim: best", "claim"), ("- 1", "bounds"),
        ("a: [", "malformed"),
        ("weights: 3", "weights"), ("weights: [{min-sqnr: 3}]", "match"), ("weights: [{match: '*', sqnr: 3}]", "sqnr"),
        ("weights: [{match: 're:('}]", "re:("),
        ("max-kld: .nan", "max-kld"), ("", "bounds"),
    ])
    func mistakesInAPolicyAreNamed(_ text: String, _ word: String) {
        let failure = #expect(throws: ParityFailure.self) { try policy(text) }
        #expect("\(String(describing: failure))".contains(word) && failure?.kind == .usage, "\(String(describing: failure))")
    }

    @Test func everyBoundFailsWhereItDoesNotHold() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("int4"), to: "int4-g32")
        let (reference, candidate) = (try Checkpoint(opening: Fixtures.fp8Model), try Checkpoint(opening: folder.file("int4")))
        let audit = try WeightAudit(reference: reference, candidate: candidate)
        let forward = try ForwardTrial(.checkpoint(reference), candidate, tokens: ForwardTrialTests.tokens)
        func verdict(_ text: String) throws -> ParityVerdict {
            ParityVerdict(weights: audit, forward: forward, bounds: try policy(text).bounds)
        }
        for (text, word) in [
            ("exact: true", "weights differ"), ("min-sqnr: 60", "signal-to-noise"), ("max-kld: 1.0e-7", "mean KLD"),
            ("max-kld-p99: 1.0e-7", "99 % KLD"),
            ("min-top1: 1", "top-1"), ("min-expert-agreement: 1", "expert agreement in layer"), ("max-perplexity-ratio: 0.5", "perplexity ratio"),
            ("max-mtp-kld: 0", "multi-token"), ("weights: [{match: '*.experts.*', min-sqnr: 60}]", ".experts."),
            ("weights: [{match: '*.q_b_proj*', exact: true}]", "q_b_proj"), ("weights: [{match: '*.exprets.*', exact: true}]", "*.exprets.*"),
        ] {
            let verdict = try verdict(text)
            #expect(!verdict.passed && verdict.failures.count == 1 && verdict.failures[0].contains(word), "\(text): \(verdict.failures)")
        }
        let loose = try verdict(
            "{min-sqnr: 1, max-kld: 1, max-kld-p99: 9, min-top1: 0.1, min-expert-agreement: 0.1, max-perplexity-ratio: 2, max-mtp-kld: 1, weights: [{match: '*norm*', exact: true}]}"
        )
        #expect(loose.passed && loose.gates.count == 10)
    }

    @Test func theLayoutsOfBothSidesShowTheClaim() throws {
        let folder = try TemporaryDirectory()
        let source = try Checkpoint(opening: Fixtures.fp8Model)
        for (target, claim) in [
            ("keep", ParityClaim.repack), ("bf16", .dequantize), ("f32", .dequantize), ("f16", .cast), ("fp8-channel", .eightBit),
            ("int8-channel", .eightBit),
            ("int4-g32", .fourBit), ("int4-g128-asym", .fourBit),
        ] {
            try convert(Fixtures.fp8Model, folder.file(target), to: target)
            let candidate = try Checkpoint(opening: folder.file(target))
            let claims = ParityClaims(from: source, to: candidate)
            #expect(claims.loosest == claim, "\(target)")
            // The default gates of every claim hold for a sound conversion.
            let trial = try ForwardTrial(.checkpoint(source), candidate, tokens: ForwardTrialTests.tokens)
            let verdict = ParityVerdict(weights: try WeightAudit(reference: source, candidate: candidate), forward: trial, claims: claims)
            #expect(verdict.passed, "\(target): \(verdict.failures)")
        }
    }
}
