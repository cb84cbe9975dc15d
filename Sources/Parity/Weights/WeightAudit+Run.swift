import Architectures
import CKernels
import Checkpoints
import Conversion
import Formats
import Foundation
import ReferenceModels
import Runtime
import StrictJSON
import Tensors

extension WeightAudit {
    /// Compares every weight of `candidate` with its namesake in `reference`, whatever their layouts: both are decoded tile by
    /// tile. Dense F32 and F16 weights are compared as F32, everything else as the BF16 values that the layouts define.
    package init(reference: Checkpoint, candidate: Checkpoint, options: RunOptions = RunOptions(), stop: StopToken = StopToken()) throws {
        try reference.requireReadable()
        try candidate.requireReadable()
        configuration = Self.differences(reference, candidate)
        // What may be missing is for the reference to say, never for the candidate that lacks it.
        let config = reference.languageConfig
        let layers = config["num_hidden_layers"]?.int
        promisesLeftOut = config["num_nextn_predict_layers"]?.int != 0
        let names = try Self.places(candidate)
        _ = try Self.places(reference)
        var pairs: [(Int, Int)] = []
        var matched = Set<Int>()
        // A module is left out when nothing of it is there; a part of it is lost.
        let kept = Set(candidate.weights.lazy.compactMap { WeightName.layer($0.name) })
        let layouts = (Self.layouts(reference), Self.layouts(candidate))
        let areAlike = layouts.0 == layouts.1
        /// Whether what lies beside a weight may be missing: with another layout it has no meaning.
        func isForeign(_ name: String) -> Bool {
            guard WeightName.isCompanion(name) else { return false }
            let module = WeightName.module(name)
            // Scales of the cache lie in a module without weights of its own: any projection inside tells.
            let mine = layouts.0[module], theirs = layouts.1[module]
            if let mine, let theirs { return mine != theirs }
            return !areAlike
        }
        for (index, weight) in reference.weights.enumerated() {
            guard let other = names[weight.name] else {
                if isForeign(weight.name) {
                    companions.append(weight.name)
                } else if let layers, WeightName.layer(weight.name).map({ $0 >= layers && !kept.contains($0) }) ?? false {
                    leftOut.append(weight.name)
                } else {
                    missing.append(weight.name)
                }
                continue
            }
            matched.insert(other)
            if candidate.weights[other].dimensions == weight.dimensions { pairs.append((index, other)) } else { reshaped.append(weight.name) }
        }
        extra = candidate.weights.indices.filter { !matched.contains($0) }.map { candidate.weights[$0].name }
        companions += extra.filter(isForeign)
        extra.removeAll(where: isForeign)

        let comparer = PairComparer(reference: reference, candidate: candidate)
        let needed = pairs.map { comparer.minimumBytes($0.0, $0.1) }.max() ?? 0
        guard needed <= options.memory else {
            let largest = pairs.max { comparer.minimumBytes($0.0, $0.1) < comparer.minimumBytes($1.0, $1.1) }?.0 ?? 0
            throw ConversionFailure.memory(needed: needed, weight: reference.weights[largest].name, budget: options.memory)
        }
        let workers = max(1, min(options.jobs ?? ProcessFigures.processorCount, needed == 0 ? Int.max : options.memory / needed))
        let results = Lock<[Int: WeightComparison]>([:])
        let work = pairs
        let hasTallTiles = (reference.weights + candidate.weights).contains { ($0.layout?.preferredRows ?? 1) > 1 }
        let preferred = hasTallTiles ? 64 << 20 : 4 << 20
        try ParallelLoop.run(count: work.count, workers: workers) {
            try AlignedBuffer(byteCount: max(needed, min(preferred, options.memory / workers)))
        } body: { position, buffer in
            if stop.isStopped { throw ConversionFailure.interrupted(done: results.withLock { $0.count }, total: work.count) }
            let comparison = try comparer.compare(work[position].0, work[position].1, buffer)
            results.withLock { $0[position] = comparison }
        }
        weights = results.withLock { results in work.indices.compactMap { results[$0] } }
        weights.sort(by: WeightComparison.isWorse)
    }

    /// The layout of every module's weight.
    private static func layouts(_ checkpoint: Checkpoint) -> [Substring: String] {
        Dictionary(
            checkpoint.weights.lazy.filter { WeightName.leaf($0.name) == "weight" }.map { ($0.module, $0.layoutName) },
            uniquingKeysWith: { first, _ in first })
    }

    /// What the two configurations say differently of the arithmetic: by the model's own terms where its architecture is known, otherwise every
    /// field that says more than how the weights are stored. A description of codes must fit what is stored.
    private static func differences(_ reference: Checkpoint, _ candidate: Checkpoint) -> [String] {
        var found: [String] = []
        let isCoded = candidate.weights.contains { $0.layout?.isDense == false }
        // A file of GGUF says itself of each tensor which codes it holds.
        if isCoded, candidate.quantization == nil, candidate.entries.isEmpty, candidate.config.object?.members.isEmpty == false {
            found.append("the candidate's weights are quantized, but nothing describes how")
        }
        if !isCoded, let place = candidate.describedAt {
            found.append("\(place) describes a quantization, but no weight of the candidate is quantized")
        }
        guard let left = reference.config.object, !left.members.isEmpty else { return found }
        guard let right = candidate.config.object, !right.members.isEmpty else { return found + ["the candidate has no config.json"] }
        if let one = left["architectures"], let other = right["architectures"], one != other {
            found.append("architectures: \(one.text(pretty: false)) and \(other.text(pretty: false))")
        }
        if let mine = try? ModelConfiguration(config: reference.config) {
            do {
                let other = try ModelConfiguration(config: candidate.config)
                found += other.differences(from: mine)
                let hasModules = candidate.weights.contains { (WeightName.layer($0.name) ?? -1) >= mine.layers }
                if hasModules, mine.mtpModules != other.mtpModules {
                    found.append("num_nextn_predict_layers: \(mine.mtpModules) and \(other.mtpModules)")
                }
            } catch { found.append("\(error)") }
            return found
        }
        let idle: Set<String> = [
            "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map", "use_cache", "num_nextn_predict_layers", "bos_token_id",
            "eos_token_id", "pad_token_id", "architectures", "initializer_range", "id2label", "label2id", "model_type", "rope_type", "type",
        ]
        /// Every leaf by its own name: newer versions of a library put the same fields into other objects.
        func leaves(_ object: JSONObject) -> [String: Set<String>] {
            var result: [String: Set<String>] = [:]
            func add(_ object: JSONObject) {
                for (key, value) in object.members where !idle.contains(key) {
                    if let inner = value.object { add(inner) } else { result[key, default: []].insert(value.text(pretty: false)) }
                }
            }
            add(QuantizationDescription.removed(from: object))
            return result
        }
        func isAtRest(_ values: Set<String>) -> Bool { values.isSubset(of: ["null", "false", "[]", "\"\"", "0", "0.0"]) }
        let (a, b) = (leaves(left), leaves(right))
        for key in Set(a.keys).union(b.keys).sorted() {
            let (one, other) = (a[key] ?? [], b[key] ?? [])
            // Values that are spelt differently may be one number.
            func numbers(_ values: Set<String>) -> Set<Double>? {
                let numbers = values.compactMap { Double($0) }
                return numbers.count == values.count ? Set(numbers) : nil
            }
            if one == other || numbers(one).map({ $0 == numbers(other) }) == true || isAtRest(one) && isAtRest(other) { continue }
            found.append("\(key): \(one.sorted().joined(separator: ", ").prefix(60)) and \(other.sorted().joined(separator: ", ").prefix(60))")
        }
        return found
    }

    /// The place of every weight by its name, of which there is one.
    private static func places(_ checkpoint: Checkpoint) throws -> [String: Int] {
        var places: [String: Int] = [:]
        for (index, weight) in checkpoint.weights.enumerated() where places.updateValue(index, forKey: weight.name) != nil {
            throw CheckpointFailure.contradiction(
                tensor: weight.name, file: checkpoint.fileName(of: weight), reason: "is a weight that is stored twice")
        }
        return places
    }
}

/// Compares the weights of two checkpoints one pair at a time.
private struct PairComparer: Sendable {
    let reference: Checkpoint
    let candidate: Checkpoint

    private struct Side {
        var checkpoint: Checkpoint
        var weight: Weight
        var layout: PartLayout
        /// Columns that share a scale.
        var group: Int { max(1, weight.layout?.groupColumns(of: weight.shape.columns) ?? weight.shape.columns) }
    }

    private func side(_ checkpoint: Checkpoint, _ index: Int) -> Side {
        let weight = checkpoint.weights[index]
        return Side(checkpoint: checkpoint, weight: weight, layout: PartLayout(parts: weight.parts, shape: weight.shape))
    }

    private func alignment(_ a: Side, _ b: Side) -> Int {
        leastCommonMultiple(a.weight.layout?.rowAlignment ?? 1, b.weight.layout?.rowAlignment ?? 1)
    }

    /// A value takes 4 bytes a side at most, as F32.
    private func bytes(_ rows: Range<Int>, _ a: Side, _ b: Side) -> Int {
        a.layout.byteCount(rows) + b.layout.byteCount(rows) + 2 * PartLayout.aligned(rows.count * a.weight.shape.columns * 4)
    }

    func minimumBytes(_ a: Int, _ b: Int) -> Int {
        let (a, b) = (side(reference, a), side(candidate, b))
        guard a.weight.layout != nil, b.weight.layout != nil else { return 8192 }
        return bytes(0..<min(alignment(a, b), a.weight.shape.rows), a, b)
    }

    func compare(_ first: Int, _ second: Int, _ buffer: AlignedBuffer) throws -> WeightComparison {
        let (a, b) = (side(reference, first), side(candidate, second))
        var sums = ck_error_sums()
        var (lost, misrounded) = (Float(0), 0)
        if let left = a.weight.layout, let right = b.weight.layout {
            try compareValues(a, left, b, right, buffer, &sums, &lost, &misrounded)
        } else {
            sums.different = try differentBytes(a, b, buffer)
            misrounded = sums.different
        }
        let count = a.weight.count
        let norms = (sums.signal * sums.candidate).squareRoot()
        return WeightComparison(
            name: a.weight.name, values: count, different: Int(sums.different),
            sqnr: sums.noise == 0 && sums.different == 0 ? .infinity : 10 * log10(sums.signal / sums.noise),
            maximumError: Double(sums.max_abs), meanError: count == 0 ? 0 : sums.absolute / Double(count),
            rootMeanSquareError: count == 0 ? 0 : (sums.noise / Double(count)).squareRoot(),
            cosine: sums.different == 0 ? 1 : norms == 0 ? 0 : sums.product / norms,
            lostGroup: lost == 0 ? 0 : Double(lost) / (sums.signal * Double(b.group) / Double(count)), misrounded: misrounded,
            referenceLayout: a.weight.layoutName, candidateLayout: b.weight.layoutName)
    }

    private func compareValues(
        _ a: Side, _ left: any WeightLayout, _ b: Side, _ right: any WeightLayout, _ buffer: AlignedBuffer, _ sums: inout ck_error_sums,
        _ lost: inout Float, _ misrounded: inout Int
    ) throws {
        let columns = a.weight.shape.columns
        let unit = alignment(a, b)
        let unitBytes = max(1, bytes(0..<min(unit, a.weight.shape.rows), a, b))
        // A dense weight that is not BF16 holds more than BF16 shows.
        let isWiderThanBF16 = [left, right].contains { $0.isDense && $0.name != "bf16" }
        // Two integer codings are compared by their exact values: a repacked weight has the very same ones.
        let coded = [left, right].compactMap { $0 as? any IntegerCodedLayout }.filter(\.hasContiguousGroups)
        let wide = isWiderThanBF16 || coded.count == 2
        let step = Self.step(left, right)
        for rows in TileSequence(of: a.weight.shape, step: max(1, buffer.bytes.count / unitBytes) * unit) {
            let valueBytes = PartLayout.aligned(rows.count * columns * 4)
            let values = [0, 1].map { buffer.slice($0 * valueBytes..<($0 + 1) * valueBytes) }
            var start = 2 * valueBytes
            for (index, side) in [a, b].enumerated() {
                let size = side.layout.byteCount(rows)
                let slices = side.layout.slices(rows, in: buffer.slice(start..<(start + size)))
                start += size
                try side.checkpoint.read(side.weight, parts: side.layout.parts, rows: rows, into: slices)
                let stored = slices.map { UnsafeRawBufferPointer($0) }
                if wide {
                    let target = values[index].assumingMemoryBound(to: Float.self)
                    if coded.count == 2, let base = target.baseAddress {
                        coded[index].decodeExactly(stored, rows: rows, shape: side.weight.shape, into: base)
                    } else {
                        side.weight.layout?.decodeWidest(stored, rows: rows, shape: side.weight.shape, into: target)
                    }
                } else {
                    let target = UnsafeMutableBufferPointer(rebasing: values[index].assumingMemoryBound(to: UInt16.self)[..<(rows.count * columns)])
                    side.weight.layout?.decode(stored, rows: rows, shape: side.weight.shape, into: target)
                }
            }
            // Row by row: the sums do not depend on how the weight is cut.
            for row in 0..<rows.count {
                let before = sums.different
                if wide {
                    let pointers = values.map { $0.assumingMemoryBound(to: Float.self).baseAddress! + row * columns }
                    // Who dequantizes to BF16 and saves that in a wider type has rounded as a reference does.
                    if left.isDense != right.isDense, !Self.isWideAlways(left.isDense ? right : left),
                        Self.holdsBF16(pointers[left.isDense ? 0 : 1], columns)
                    {
                        ck_round_to_bf16(pointers[left.isDense ? 1 : 0], columns)
                    }
                    ck_f32_error(pointers[0], pointers[1], columns, &sums)
                    guard sums.different > before else { continue }
                    lost = ck_f32_lost(pointers[0], pointers[1], columns, b.group, lost)
                    misrounded +=
                        right.isDense
                        ? ck_f32_apart(pointers[0], pointers[1], columns, step.relative, step.smallest) : sums.different - before
                } else {
                    let pointers = values.map { $0.assumingMemoryBound(to: UInt16.self).baseAddress! + row * columns }
                    ck_bf16_error(KernelLevel.active.rawValue, pointers[0], pointers[1], columns, &sums)
                    guard sums.different > before else { continue }
                    lost = ck_bf16_lost(pointers[0], pointers[1], columns, b.group, lost)
                    // Both were decoded to BF16: what differs was not rounded from one to the other.
                    misrounded += sums.different - before
                }
            }
        }
    }

    /// Whether no reference rounds a layout's values to BF16: ggml's programs never do.
    private static func isWideAlways(_ layout: any WeightLayout) -> Bool { (layout as? any WideLayout)?.staysWideForCodes == true }

    /// Whether all values are BF16 numbers.
    private static func holdsBF16(_ values: UnsafePointer<Float>, _ count: Int) -> Bool {
        UnsafeBufferPointer(start: values, count: count).reduce(0) { $0 | $1.bitPattern & 0xFFFF } == 0
    }

    /// One step of the coarser of two dense types, by the size of a value, and between the smallest values. What is coded has BF16 values.
    private static func step(_ layouts: any WeightLayout...) -> (relative: Float, smallest: Float) {
        var step: (relative: Float, smallest: Float) = (0x1p-23, 0x1p-149)
        for layout in layouts {
            switch layout.denseType {
            case .f32, .f64: continue
            case .f16: step = (max(step.relative, 0x1p-10), max(step.smallest, 0x1p-24))
            default: step = (max(step.relative, 0x1p-7), max(step.smallest, 0x1p-133))
            }
        }
        return step
    }

    /// For tensors that are not numbers to us: bytes that differ.
    private func differentBytes(_ a: Side, _ b: Side, _ buffer: AlignedBuffer) throws -> Int {
        let (left, right) = (a.weight.stored[0], b.weight.stored[0])
        guard left.type == right.type, left.byteCount == right.byteCount else { return a.weight.count }
        let half = buffer.bytes.count / 2
        var different = 0
        for start in stride(from: 0, to: left.byteCount, by: half) {
            let range = start..<min(start + half, left.byteCount)
            let one = buffer.slice(0..<range.count)
            let two = buffer.slice(half..<(half + range.count))
            try a.checkpoint.read(left, range, into: one)
            try b.checkpoint.read(right, range, into: two)
            different += zip(one, two).count { $0 != $1 }
        }
        return different
    }
}
