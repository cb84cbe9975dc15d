import Checkpoints
import Conversion
import Formats
import Foundation
import ReferenceModels
import Runtime
import Tensors

/// What is worth keeping of a reference's forward pass: at every position the likeliest tokens with their logits, the log of
/// the sum of all exponentials, and the log probability of the token that follows. A few hundred bytes a position instead of
/// the whole vocabulary; the rest of the distribution is one bucket, and what it can hide of a divergence is bounded.
///
/// A safetensors file: `lengths` I64 [n], `input_ids` I64 [positions], `top.tokens` I32 and `top.logits` F32 [positions, k],
/// `log_sum_exp` F64 [positions], `target_log_probability` F64 [positions] (NaN where a sequence ends).
package struct CompactReference: Sendable {
    package static let metadataKey = "recast.reference"
    /// Tokens kept at a position.
    package static let defaultWidth = 256

    package let tokens: TokenBatch
    package let vocabulary: Int
    let width: Int
    let topTokens: [Int32]
    let topLogits: [Float]
    let logSums: [Double]
    let targets: [Double]

    private init(
        tokens: TokenBatch, vocabulary: Int, width: Int, topTokens: [Int32], topLogits: [Float], logSums: [Double], targets: [Double]
    ) {
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.width = width
        self.topTokens = topTokens
        self.topLogits = topLogits
        self.logSums = logSums
        self.targets = targets
    }

    // MARK: Reading

    package init(_ header: SafetensorsHeader, _ file: PositionedFile) throws {
        func failure(_ reason: String) -> ReferenceFailure { .tokens(path: file.path, reason: reason) }
        func values<Value: BitwiseCopyable>(_ name: String, _ type: ScalarType, _ rank: Int, as: Value.Type) throws -> (shape: [Int], values: [Value])
        {
            guard let tensor = header.tensors.first(where: { $0.name == name }), tensor.type == type, tensor.shape.count == rank else {
                throw failure("\(name) is missing or of another type")
            }
            let bytes = try file.read(tensor.byteCount, at: tensor.offset)
            let stride = MemoryLayout<Value>.stride
            return (
                tensor.shape,
                bytes.withUnsafeBytes { raw in (0..<bytes.count / stride).map { raw.loadUnaligned(fromByteOffset: $0 * stride, as: Value.self) } }
            )
        }
        guard let size = header.metadata.first(where: { $0.key == "vocabulary" }).flatMap({ Int($0.value) }), size > 0, size < 1 << 31 else {
            throw failure("the vocabulary's size is missing")
        }
        vocabulary = size
        let lengths = try values("lengths", .i64, 1, as: Int64.self).values
        let numbers = try values("input_ids", .i64, 1, as: Int64.self).values.map { Int($0) }
        let (shape, top) = try values("top.tokens", .i32, 2, as: Int32.self)
        topTokens = top
        topLogits = try values("top.logits", .f32, 2, as: Float.self).values
        logSums = try values("log_sum_exp", .f64, 1, as: Double.self).values
        targets = try values("target_log_probability", .f64, 1, as: Double.self).values
        width = shape[1]
        var left = numbers.count
        for length in lengths {
            guard length >= 0, length <= left else { throw failure("the lengths do not add up to the tokens") }
            left -= Int(length)
        }
        guard left == 0, shape[0] == numbers.count, logSums.count == numbers.count, targets.count == numbers.count,
            topLogits.count == topTokens.count, width > 0, width <= size,
            topTokens.allSatisfy({ $0 >= 0 && $0 < size }), !numbers.isEmpty
        else { throw failure("the tensors' sizes do not fit each other") }
        var start = 0
        tokens = TokenBatch(
            lengths.map { length in
                defer { start += Int(length) }
                return Array(numbers[start..<start + Int(length)])
            })
    }

    // MARK: Writing

    /// Collects a pass's logits, row after row, and writes them at the end.
    package final class Recorder {
        private let tokens: TokenBatch
        private let vocabulary: Int
        private let width: Int
        private let last: Set<Int>
        private var topTokens: [Int32] = []
        private var topLogits: [Float] = []
        private var logSums: [Double] = []
        private var targets: [Double] = []

        /// What is kept grows with the tokens, not with the model; it comes off the budget all the same.
        private let reservation: MemoryReservation

        package init(_ tokens: TokenBatch, vocabulary: Int, width: Int = CompactReference.defaultWidth) throws {
            reservation = try MemoryReservation(tokens.count * (min(width, vocabulary) * 8 + 16))
            self.tokens = tokens
            self.vocabulary = vocabulary
            self.width = min(width, vocabulary)
            last = Set(tokens.ranges.map { $0.upperBound - 1 })
        }

        /// The next rows' logits, in the order of the tokens.
        package func add(_ logits: Activations) {
            for row in 0..<logits.rows {
                let probabilities = LogProbabilities(logits[row], logits.columns)
                let ranked = probabilities.largest(width)
                topTokens += ranked.map { Int32($0) }
                topLogits += ranked.map { probabilities.logit($0) }
                let position = logSums.count
                logSums.append(probabilities.logSum)
                targets.append(last.contains(position) ? .nan : probabilities[tokens.all[position + 1]])
            }
        }

        /// The reference itself, once all rows have been added.
        package var reference: CompactReference {
            CompactReference(
                tokens: tokens, vocabulary: vocabulary, width: width, topTokens: topTokens, topLogits: topLogits, logSums: logSums, targets: targets)
        }

        package func write(to path: String) throws {
            let count = tokens.count
            let tensors: [(declaration: TensorDeclaration, bytes: [UInt8])] = [
                (.init(name: "lengths", type: .i64, shape: [tokens.ranges.count]), Array(bytesOf: tokens.ranges.map { Int64($0.count) })),
                (.init(name: "input_ids", type: .i64, shape: [count]), Array(bytesOf: tokens.all.map { Int64($0) })),
                (.init(name: "log_sum_exp", type: .f64, shape: [count]), Array(bytesOf: logSums)),
                (.init(name: "target_log_probability", type: .f64, shape: [count]), Array(bytesOf: targets)),
                (.init(name: "top.tokens", type: .i32, shape: [count, width]), Array(bytesOf: topTokens)),
                (.init(name: "top.logits", type: .f32, shape: [count, width]), Array(bytesOf: topLogits)),
            ]
            let metadata = [("format", "pt"), (CompactReference.metadataKey, "1"), ("vocabulary", "\(vocabulary)")]
            guard try SafetensorsHeader.write(tensors, metadata: metadata, to: path) else { throw ConversionFailure.tooLarge(tensor: path) }
        }
    }
}

/// The likeliest tokens of the reference; the others are one bucket.
struct CompactPredictions: ReferencePredictions {
    let store: CompactReference
    /// The store's position of row 0.
    let first: Int

    func difference(_ row: Int, to candidate: LogProbabilities, target: Int?) -> PositionDifference {
        let places = (first + row) * store.width..<(first + row + 1) * store.width
        let tokens = store.topTokens[places].map { Int($0) }
        let logs = store.topLogits[places].map { Double($0) - store.logSums[first + row] }
        var divergence = 0.0
        var mass = (reference: 0.0, candidate: 0.0)
        for (token, log) in zip(tokens, logs) {
            let p = exp(log)
            // 0 log 0 = 0: a token that the reference excludes says nothing.
            divergence += p == 0 ? 0 : p * (log - candidate[token])
            mass.reference += p
            mass.candidate += exp(candidate[token])
        }
        var hidden = 0.0
        let (tail, other) = (1 - mass.reference, 1 - mass.candidate)
        if store.width < store.vocabulary, tail > 0, let smallest = logs.last {
            let floor = candidate.smallest(besides: Set(tokens))
            let bucket = Foundation.log(Figures.larger(other, exp(floor)))
            divergence += tail * (Foundation.log(tail) - bucket)
            // Inside the bucket no reference probability is above the smallest kept one and no candidate's below its smallest.
            hidden = Figures.larger(0, tail * (Figures.smaller(0, smallest - Foundation.log(tail)) - (floor - bucket)))
        }
        // Probabilities that add up to more than one are no distribution: a damaged file, or a token named twice.
        guard candidate.isFinite, store.logSums[first + row].isFinite, !divergence.isNaN, mass.reference < 1.0001, mass.candidate < 1.0001 else {
            return .unjudged(target: target.map { (store.targets[first + row], candidate[$0]) })
        }
        let choice = candidate.ranked(5)
        let margin = tokens.firstIndex(of: choice[0]).map { logs[0] - logs[$0] } ?? (logs[0] - (logs.last ?? logs[0]))
        return PositionDifference(
            divergence: Figures.larger(0, divergence), hidden: hidden, margin: tokens[0] == choice[0] ? nil : margin,
            sharedTop5: Set(tokens.prefix(5)).intersection(choice).count, target: target.map { (store.targets[first + row], candidate[$0]) })
    }
}

struct StoredReference: ForwardReference {
    let store: CompactReference
    /// The store's position of the batch's first token.
    let first: Int

    func step() -> (hidden: HiddenRows?, routing: Routing?) { (nil, nil) }
    func predictions(_ rows: Range<Int>) -> any ReferencePredictions { CompactPredictions(store: store, first: first + rows.lowerBound) }
    func beginMTP() -> Int { 0 }
    func mtpPredictions(_ rows: Range<Int>) -> any ReferencePredictions { CompactPredictions(store: store, first: first) }
}
