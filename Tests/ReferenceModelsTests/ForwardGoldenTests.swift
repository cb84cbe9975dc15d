import Foundation
import Recast
import TestSupport
import Testing

/// The forward pass against transformers in float32 (Tests/Scripts/trim_forward_golden.py).
@Suite struct ForwardGoldenTests {
    static let bound: Float = 2e-4

    struct Golden {
        var tensors: [String: (shape: [Int], values: [Float])] = [:]
        var integers: [String: [Int]] = [:]

        init(_ name: String) throws {
            let file = try PositionedFile.openForReading(Fixtures.path("golden/forward/\(name).safetensors"))
            for tensor in try SafetensorsHeader(reading: file).tensors {
                let bytes = try file.read(tensor.byteCount, at: tensor.offset)
                if tensor.type == .f32 {
                    tensors[tensor.name] = (
                        tensor.shape,
                        bytes.withUnsafeBytes { raw in (0..<bytes.count / 4).map { raw.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) } }
                    )
                } else {
                    integers[tensor.name] = bytes.withUnsafeBytes { raw in
                        (0..<bytes.count / 8).map { Int(raw.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self)) }
                    }
                }
            }
        }
    }

    func argmax(_ row: UnsafePointer<Float>, _ count: Int) -> Int { (0..<count).max { row[$0] < row[$1] } ?? 0 }

    /// Largest difference between rows of `mine` and the golden rows; and that both prefer the same token.
    func compare(_ mine: Activations, rows: [Int], _ golden: (shape: [Int], values: [Float]), prefer: Bool = true) -> Float {
        let columns = golden.shape[1]
        #expect(rows.count == golden.shape[0] && columns == mine.columns)
        var worst: Float = 0
        golden.values.withUnsafeBufferPointer { values in
            for (index, row) in rows.enumerated() {
                let expected = values.baseAddress! + index * columns
                for column in 0..<columns { worst = max(worst, abs(mine[row][column] - expected[column])) }
                if prefer { #expect(argmax(mine[row], columns) == argmax(expected, columns)) }
            }
        }
        return worst
    }

    @Test(arguments: ["bf16", "fp8"]) func float32IsTransformers(_ model: String) throws {
        let golden = try Golden(model + ".f32")
        let tokens = try TokenBatch(reading: Fixtures.path("tokens-short.json"))
        let pass = try ForwardPass(Checkpoint(opening: model == "bf16" ? Fixtures.bf16Model : Fixtures.fp8Model), tokens: tokens)
        let every8 = Array(stride(from: 0, to: 160, by: 8))
        var worst: Float = compare(pass.hidden, rows: every8, try #require(golden.tensors["hidden.0"]), prefer: false)
        while !pass.isDone {
            let layer = pass.layer
            let routing = try pass.step()
            let hidden = compare(pass.hidden, rows: every8, try #require(golden.tensors["hidden.\(layer + 1)"]), prefer: false)
            #expect(hidden <= Self.bound, "hidden state after layer \(layer): \(hidden)")
            if let routing {
                let experts = try #require(golden.integers["router.\(layer).experts"])
                #expect(Array(routing.experts.prefix(64).joined()) == experts, "layer \(layer)")
                let weights = try #require(golden.tensors["router.\(layer).weights"]).values
                for (a, b) in zip(routing.weights.prefix(64).joined(), weights) { worst = max(worst, abs(a - b)) }
            }
        }
        let logits = try pass.logits(0..<tokens.count)
        worst = max(worst, compare(logits, rows: Array(stride(from: 0, to: 160, by: 4)), try #require(golden.tensors["logits.0.every4"])))
        for sequence in [4, 5, 6] {
            worst = max(worst, compare(logits, rows: Array(tokens.ranges[sequence]), try #require(golden.tensors["logits.\(sequence)"])))
        }
        let mtp = try #require(try pass.multiTokenPrediction()).logits(0..<159)
        worst = max(worst, compare(mtp, rows: Array(stride(from: 0, to: 159, by: 8)), try #require(golden.tensors["mtp.logits"])))
        #expect(worst <= Self.bound, "largest difference \(worst)")
        print("\(model): largest difference to transformers \(worst)")
    }

    @Test(arguments: ["bf16", "fp8"]) func perplexityIsTransformers(_ model: String) throws {
        let summary = try JSONValue(parsing: Fixtures.bytes("golden/forward/summary.json"))
        let expected = try #require(summary[model]?["perplexity_f32"]?.double)
        let checkpoint = try Checkpoint(opening: model == "bf16" ? Fixtures.bf16Model : Fixtures.fp8Model)
        let tokens = try TokenBatch(reading: Fixtures.path("tokens-eval.json"))
        let comparison = try ForwardTrial(.checkpoint(checkpoint), checkpoint, tokens: tokens).comparison.predictions
        #expect(comparison.scoredTokens == summary[model]?["tokens"]?.int)
        #expect(abs(comparison.referencePerplexity / expected - 1) < 1e-4, "\(comparison.referencePerplexity), expected \(expected)")
    }

    /// In BF16 both sides round at the same places, but sums inside a product differ in order, and one value that falls on the
    /// other side of a rounding, or one flipped expert, makes the rest independent noise. Two independent errors of the same size
    /// are twice their mean square apart, so that is the bound. With FP8 activations all sums are F32 and far closer.
    @Test(arguments: [("bf16", Precision.bf16), ("fp8", .bf16), ("fp8", .fp8)])
    func reducedPrecisionsAreNearTheReference(_ model: String, _ precision: Precision) throws {
        let golden = try Golden("\(model).\(precision.rawValue)")
        let exact = try Golden(model + ".f32")
        let tokens = try TokenBatch(reading: Fixtures.path("tokens-short.json"))
        let pass = try ForwardPass(
            Checkpoint(opening: model == "bf16" ? Fixtures.bf16Model : Fixtures.fp8Model), tokens: tokens, precision: precision)
        while !pass.isDone { try pass.step() }
        let logits = try pass.logits(tokens.ranges[0])
        let every4 = Array(stride(from: 0, to: 160, by: 4))
        let mine = every4.flatMap { Array(UnsafeBufferPointer(start: logits[$0], count: logits.columns)) }
        func meanSquare(_ a: [Float], _ b: [Float]) -> Float { zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } / Float(a.count) }
        let theirs = try #require(golden.tensors["logits.0.every4"]).values
        let f32 = try #require(exact.tensors["logits.0.every4"]).values
        let distance = meanSquare(mine, theirs), effect = meanSquare(theirs, f32)
        print("\(model) in \(precision.rawValue): rms distance \(distance.squareRoot()), rms effect of the precision \(effect.squareRoot())")
        #expect(precision == .bf16 ? distance < 2 * effect : distance < effect / 400)
    }

    @Test func logitsDoNotDependOnWorkersOrCompany() throws {
        let tokens = try TokenBatch(reading: Fixtures.path("tokens-short.json"))
        let checkpoint = try Checkpoint(opening: Fixtures.fp8Model)
        func bits(_ batch: TokenBatch, jobs: Int) throws -> [UInt32] {
            let pass = try ForwardPass(checkpoint, tokens: batch, options: RunOptions(jobs: jobs))
            while !pass.isDone { try pass.step() }
            return try pass.logits(batch.ranges[0]).values.map(\.bitPattern)
        }
        let reference = try bits(tokens, jobs: 1)
        for jobs in [2, 7] { #expect(try bits(tokens, jobs: jobs) == reference) }
        // A sequence alone gives the bits that it has among others.
        #expect(try bits(TokenBatch([Array(tokens.all[tokens.ranges[0]])]), jobs: 2) == reference)
    }

    /// A budget larger than the machine is an error with a sentence, not a trap.
    @Test func refusedMemoryIsAnError() {
        #expect(throws: OutOfMemory.self) { try Activations(rows: 1 << 40, columns: 1 << 20) }
        #expect(OutOfMemory(byteCount: 1 << 40).kind == .system)
    }
}
