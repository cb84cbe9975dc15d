import Checkpoints
import Formats
import StrictJSON
import Tensors

extension ConversionPlan {
    /// Plans the conversion of `checkpoint`. Reads headers, and scales where an exact repacking depends on them; writes nothing.
    ///
    /// - Parameters:
    ///   - shardSize: cut the output into shards of at most this many bytes of data (a larger weight gets a shard of
    ///     its own); nil keeps the source's cuts, or 5 GB where weights are stacked.
    ///   - requireExact: refuse a plan in which any value would be rounded.
    /// - Throws: ``CheckpointFailure`` if scales are missing, ``ConversionFailure`` if the recipe does not fit.
    public init(converting checkpoint: Checkpoint, choice: LayoutChoice, shardSize: Int? = nil, requireExact: Bool = false) throws {
        try checkpoint.requirePairedScales()
        targetName = choice.targetName
        recipe = choice.recipe
        notes = checkpoint.findings
        source = try SourceFingerprint(checkpoint)
        sideFiles = checkpoint.sideFiles

        var draft = PlanDraft(checkpoint, choice)
        try draft.decide()
        notes += draft.notes
        if requireExact { try draft.refuseRounding() }

        let cuts = draft.cut(shardSize: shardSize)
        weights = []
        shards = []
        var weightMap: [(tensor: String, file: String)] = []
        var dataBytes = 0
        for (number, units) in cuts.enumerated() {
            let name = Self.shardName(number, of: cuts.count)
            let declarations = units.flatMap { draft.units[$0].declarations }
            guard let place = SafetensorsHeader.layout(declarations, metadata: [("format", choice.dialect == .mlx ? "mlx" : "pt")]) else {
                throw ConversionFailure.tooLarge(tensor: declarations.first?.name ?? name)
            }
            let first = weights.count
            var next = 0
            for unit in units {
                for planned in draft.units[unit].members {
                    var weight = planned.weight
                    weight.shard = number
                    weight.tensors = draft.units[unit].declarations.enumerated().map { index, declaration in
                        // A member of a stack has its share of each tensor.
                        let share = (Shape.byteCount(declaration.shape, declaration.type) ?? 0) / planned.count
                        return PlannedTensor(
                            name: declaration.name, type: declaration.type,
                            shape: planned.count > 1 ? Array(declaration.shape.dropFirst()) : declaration.shape,
                            offset: place.offsets[next + index] + planned.index * share, byteCount: share)
                    }
                    weights.append(weight)
                }
                for declaration in draft.units[unit].declarations {
                    dataBytes += Shape.byteCount(declaration.shape, declaration.type) ?? 0
                    weightMap.append((declaration.name, name))
                }
                next += draft.units[unit].declarations.count
            }
            shards.append(
                PlannedShard(name: name, header: place.header, size: place.size, tensorCount: declarations.count, weights: first..<weights.count))
        }
        try Self.checkNames(weightMap)

        texts = []
        if cuts.count > 1 { texts.append((SafetensorsIndex.fileName, SafetensorsIndex.text(weightMap: weightMap, totalSize: dataBytes))) }
        if checkpoint.config.object?.members.isEmpty == false {
            let rewrite = try ConfigRewrite(
                checkpoint: checkpoint, weights: weights, unquantizedLinears: draft.unquantizedLinears, dialect: choice.dialect,
                dropsMTP: draft.dropsMTP)
            texts.append(("config.json", Array((rewrite.config.text() + "\n").utf8)))
            for file in rewrite.sideFiles {
                texts.append((file.name, Array((JSONValue.object(file.json).text() + "\n").utf8)))
                sideFiles.removeAll { $0 == file.name }
            }
            // A description of quantization that no longer holds must not be carried over.
            if rewrite.config != checkpoint.config { sideFiles.removeAll { ["hf_quant_config.json", "quantize_config.json"].contains($0) } }
        }
        fingerprint = ""
        fingerprint = makeFingerprint()
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
