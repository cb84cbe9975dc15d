import Checkpoints
import Formats
import StrictJSON
import Tensors

extension ConversionPlan {
    /// Plans the conversion of `checkpoint`. Reads headers and scales, writes nothing.
    ///
    /// - Parameter shardSize: cut the output into shards of at most this many bytes of data (a larger weight gets a shard of
    ///   its own); nil keeps the source's cuts.
    /// - Throws: ``CheckpointFailure`` if scales are missing, ``ConversionFailure`` if the recipe does not fit.
    public init(converting checkpoint: Checkpoint, choice: LayoutChoice, shardSize: Int? = nil) throws {
        try checkpoint.requirePairedScales()
        targetName = choice.targetName
        recipe = choice.recipe
        notes = checkpoint.findings
        source = try SourceFingerprint(checkpoint)
        sideFiles = checkpoint.sideFiles

        var used = Set<Int>()
        var unquantizedLinears: [String] = []
        var decided: [(weight: PlannedWeight, declarations: [SafetensorsHeader.Declaration])] = []
        decided.reserveCapacity(checkpoint.weights.count)
        var exceptions: [String: [String]] = [:]
        for (index, weight) in checkpoint.weights.enumerated() {
            let decision = choice.decide(weight, used: &used)
            if decision.isException { exceptions[decision.reason, default: []].append(weight.name) }
            if decision.isUnquantizedLinear { unquantizedLinears.append(String(weight.module)) }
            let planned = PlannedWeight(weight, index, decision)
            decided.append((planned, Self.declarations(of: planned, weight)))
        }
        let unmatched = choice.recipe.rules.indices.filter { !used.contains($0) }
        guard unmatched.isEmpty else { throw ConversionFailure.unmatchedRules(unmatched.map { choice.recipe.rules[$0].pattern.description }) }
        for (reason, names) in exceptions.sorted(by: { $0.key < $1.key }) {
            notes.append(Finding(names[0], reason + (names.count > 1 ? " (\(names.count) weights: \(Self.kinds(names)))" : "")))
        }

        let cuts = Self.cut(decided.map(\.declarations), checkpoint: checkpoint, shardSize: shardSize)
        weights = []
        weights.reserveCapacity(decided.count)
        shards = []
        var weightMap: [(tensor: String, file: String)] = []
        var dataBytes = 0
        for (number, members) in cuts.enumerated() {
            let name = Self.shardName(number, of: cuts.count)
            let declarations = members.flatMap { decided[$0].declarations }
            guard let place = SafetensorsHeader.layout(declarations, metadata: [("format", "pt")]) else {
                throw ConversionFailure.tooLarge(tensor: declarations.first?.name ?? name)
            }
            let first = weights.count
            var next = 0
            for member in members {
                var weight = decided[member].weight
                weight.shard = number
                weight.tensors = decided[member].declarations.map { declaration in
                    defer { next += 1 }
                    let size = Shape.byteCount(declaration.shape, declaration.type) ?? 0
                    dataBytes += size
                    weightMap.append((declaration.name, name))
                    return PlannedTensor(
                        name: declaration.name, type: declaration.type, shape: declaration.shape, offset: place.offsets[next], byteCount: size)
                }
                weights.append(weight)
            }
            shards.append(PlannedShard(name: name, header: place.header, size: place.size, weights: first..<weights.count))
        }
        try Self.checkNames(weightMap)

        texts = []
        if cuts.count > 1 { texts.append((SafetensorsIndex.fileName, SafetensorsIndex.text(weightMap: weightMap, totalSize: dataBytes))) }
        if checkpoint.config.object?.members.isEmpty == false {
            let config = try ConfigRewrite(checkpoint: checkpoint, weights: weights, unquantizedLinears: unquantizedLinears).config
            texts.append(("config.json", Array((config.text() + "\n").utf8)))
        }
        fingerprint = ""
        fingerprint = makeFingerprint()
    }

    /// The stored tensors of a planned weight. Dense and opaque weights keep their own name and dimensions.
    private static func declarations(of planned: PlannedWeight, _ weight: Weight) -> [SafetensorsHeader.Declaration] {
        if planned.road == .passthrough {
            return weight.stored.map { SafetensorsHeader.Declaration(name: $0.name, type: $0.type, shape: $0.shape) }
        }
        guard let layout = planned.layout else { return [] }
        let parts = layout.parts(of: weight.shape)
        if layout.isDense { return [SafetensorsHeader.Declaration(name: weight.name, type: parts[0].type, shape: weight.dimensions)] }
        let module = weight.module.isEmpty ? "" : weight.module + "."
        return parts.map { SafetensorsHeader.Declaration(name: module + $0.leaf, type: $0.type, shape: $0.shape) }
    }

    /// Which weights share a shard: the source's cuts, or runs of at most `shardSize` bytes.
    private static func cut(_ declarations: [[SafetensorsHeader.Declaration]], checkpoint: Checkpoint, shardSize: Int?) -> [[Int]] {
        guard let shardSize else {
            var files = [[Int]](repeating: [], count: checkpoint.files.count)
            for (index, weight) in checkpoint.weights.enumerated() { files[weight.stored[0].file].append(index) }
            return files.filter { !$0.isEmpty }
        }
        var shards: [[Int]] = []
        var filled = 0
        for index in declarations.indices {
            let size = declarations[index].reduce(0) { $0 + (Shape.byteCount($1.shape, $1.type) ?? 0) }
            if shards.isEmpty || filled + size > shardSize && filled > 0 {
                shards.append([])
                filled = 0
            }
            shards[shards.count - 1].append(index)
            filled += size
        }
        return shards
    }

    static func shardName(_ number: Int, of count: Int) -> String {
        func padded(_ number: Int) -> String { String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number) }
        return count == 1 ? "model.safetensors" : "model-\(padded(number + 1))-of-\(padded(count)).safetensors"
    }

    private static func checkNames(_ weightMap: [(tensor: String, file: String)]) throws {
        var seen = Set<String>(minimumCapacity: weightMap.count)
        for entry in weightMap where !seen.insert(entry.tensor).inserted {
            throw ConversionFailure.usage("the output would hold two tensors called \(entry.tensor); leave one of the weights as stored by a recipe")
        }
    }

    static func kinds(_ names: [String]) -> String {
        let kinds = Set(names.map(WeightName.kind)).sorted()
        return kinds.prefix(4).joined(separator: ", ") + (kinds.count > 4 ? ", ..." : "")
    }

    private func makeFingerprint() -> String {
        var lines = ["recast plan 1", targetName] + recipe.summary
        lines += source.files.map { "\($0.name) \($0.size) \($0.headerDigest)" } + [source.configDigest]
        lines += shards.map { "\($0.name) \($0.size) \(Digest.of($0.header))" }
        lines += weights.map { "\($0.source) \($0.road.rawValue) \($0.layout?.name ?? "-")" }
        lines += texts.map { "\($0.name) \(Digest.of($0.bytes))" } + sideFiles
        return Digest.of(lines.joined(separator: "\n"))
    }
}

extension PlannedWeight {
    init(_ weight: Weight, _ index: Int, _ decision: LayoutChoice.Decision) {
        source = index
        shard = 0
        tensors = []
        reason = decision.reason
        guard let layout = decision.layout, let stored = weight.layout else {
            road = .passthrough
            self.layout = weight.layout
            return
        }
        self.layout = layout
        if layout.isStored(as: stored, shape: weight.shape) {
            road = .passthrough
            self.layout = stored
        } else if layout.isDense {
            road = stored.isDense ? .cast : .dequantize
        } else {
            road = .quantize
        }
    }
}

extension WeightLayout {
    /// Whether bytes stored as `other` already are of this layout: the same parts, and no stricter rule about scales.
    func isStored(as other: any WeightLayout, shape: MatrixShape) -> Bool {
        guard type(of: other) == Self.self, parts(of: shape) == other.parts(of: shape) else { return false }
        if let mine = self as? BlockScaledFP8Layout, let stored = other as? BlockScaledFP8Layout {
            return !mine.roundsScaleUp || stored.roundsScaleUp
        }
        return name == other.name
    }
}

extension SourceFingerprint {
    init(_ checkpoint: Checkpoint) throws {
        files = try checkpoint.files.indices.map { index in
            // The first data byte follows the header; a file without tensors is all header.
            let size = checkpoint.fileSizes[index]
            let prefix = try checkpoint.files[index].read(min(8, size), at: 0)
            let length = prefix.enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
            return File(
                name: checkpoint.fileNames[index], size: size,
                headerDigest: Digest.of(try checkpoint.files[index].read(min(size, length + 8), at: 0)))
        }
        configDigest = Digest.of(checkpoint.config.text(pretty: false))
    }
}
