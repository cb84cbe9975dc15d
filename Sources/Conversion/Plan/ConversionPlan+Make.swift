import Architectures
import Checkpoints
import Formats
import Runtime
import StrictJSON
import Tensors

extension ConversionPlan {
    /// Plans the conversion of `checkpoint`. Reads headers, and scales where an exact repacking depends on them; writes nothing.
    ///
    /// - Parameters:
    ///   - output: how the output is cut and in which container it is stored.
    ///   - requireExact: refuse a plan in which any value would be rounded.
    /// - Throws: ``CheckpointFailure`` if scales are missing, ``ConversionFailure`` if the recipe or the container does not fit.
    ///   - checksScales: compare the scales of every quantized weight with those of its siblings, and name what is odd.
    package init(
        converting checkpoint: Checkpoint, choice: LayoutChoice, output: OutputOptions = OutputOptions(), requireExact: Bool = false,
        checksScales: Bool = true
    ) throws {
        if choice.isCopy {
            guard !checkpoint.isUnstacked || checkpoint.isAsStored else {
                throw ConversionFailure.usage("a copy keeps stacks of experts as they are: open the checkpoint with isUnstacked: false")
            }
            guard checkpoint.entries.isEmpty || output.container == GGUF.self else {
                throw ConversionFailure.usage(
                    "a copy of a GGUF file's tensors would have names and orders that nobody reads outside of it; give --to bf16, f32 or a layout of \(output.container.name) files"
                )
            }
        } else {
            try checkpoint.requireReadable()
        }
        targetName = choice.targetName
        recipe = choice.recipe
        quantizer = choice.quantizer
        evidence = choice.evidence
        self.output = output
        notes = checkpoint.findings
        source = try SourceFingerprint(checkpoint)
        sideFiles = checkpoint.sideFiles
        if output.isSingleFile, !output.container.isSingleFile {
            throw ConversionFailure.usage("a checkpoint cannot be one \(output.container.name) file; give a directory")
        }
        if choice.dialect.ranks != nil, output.container != Safetensors.self || output.shardSize != nil {
            throw ConversionFailure.usage("--model-parallel makes one safetensors file a rank; leave out --container and --shard-size")
        }

        if choice.dialect.isSelfDescribing { try Self.requireWhole(checkpoint, choice.dialect) }
        var draft = PlanDraft(checkpoint, choice, output)
        // Scales are looked at beside that: both only read, and of 200,000 weights each takes its second.
        let oddScales = Lock<[Finding]>([])
        let looksAtScales = checksScales && !choice.isCopy
        try ParallelLoop.run(beside: {
            guard looksAtScales else { return }
            let found = try ScaleCheck.findings(in: checkpoint)
            oddScales.withLock { $0 = found }
        }) { try draft.decide() }
        notes += draft.notes
        if choice.isCopy {
            notes += checkpoint.unpaired.prefix(4).map {
                Finding($0.name, "is carried as it is: \($0.isUnknown ? "codes that no layout here reads" : "codes or scales without their partner")")
            }
        }
        notes += oddScales.withLock { $0 }
        if checkpoint.roles.architecture == nil, draft.quantizes {
            let type = checkpoint.config["model_type"]?.string.map { "\"\($0)\"" } ?? "of no model_type"
            notes.append(
                Finding(
                    "config.json",
                    "the architecture \(type) is not known here: what its modules are for is inferred from their names; --dry-run lists it for every kind"
                ))
        }
        warnings = draft.warning.map { [$0] } ?? []
        if requireExact { try draft.refuseRounding() }

        let cuts = draft.cut()
        // A copy of a release under Mistral's names is looked for under its files' names, too.
        let isNative = choice.isCopy && output.container == Safetensors.self && Mistral.areFiles(checkpoint.fileNames)
        let naming: any Dialect = isNative ? Mistral() : choice.dialect
        weights = []
        shards = []
        var weightMap: [(tensor: String, file: String)] = []
        var dataBytes = 0
        let all = choice.dialect.isSelfDescribing ? draft.units.flatMap(\.declarations) : []
        let descriptions = try Self.descriptions(of: checkpoint, all, choice.dialect, files: cuts.count)
        let places = try Self.places(cuts, draft, checkpoint, descriptions, output.container)
        for (number, cut) in cuts.enumerated() {
            let name = Self.shardName(number, of: cuts.count, naming, output)
            let units = cut
            let declarations = units.flatMap { draft.units[$0].declarations }
            let copied = draft.copiedFile(units)
            notes += descriptions[number].notes.map { Finding(name, $0) }
            warnings += descriptions[number].warnings.map { Finding(name, $0) }
            guard let place = places[number] else {
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
                PlannedShard(
                    name: name, pieces: place.pieces, size: place.size, copiedFile: copied, tensorCount: declarations.count,
                    weights: first..<weights.count))
        }
        try Self.checkNames(weightMap, isDivided: choice.dialect.ranks != nil)

        texts = []
        if cuts.count > 1, choice.dialect.ranks != nil {
            // The ranks' file names say it all.
        } else if cuts.count > 1, output.container.listsFiles {
            let map = weightMap.map { ($0.tensor, output.container.listedName(of: $0.file)) }
            texts.append((naming.indexName ?? output.container.indexName, SafetensorsIndex.text(weightMap: map, totalSize: dataBytes)))
        }
        // Codes that stay what they are keep what describes them.
        let planned = weights
        let describes =
            choice.isCopy || planned.allSatisfy { $0.road == .passthrough } && planned.contains { $0.layout?.isDense == false }
        if choice.dialect.isSelfDescribing {
            sideFiles = []
        } else if checkpoint.config.object?.members.isEmpty == false {
            let rewrite = try ConfigRewrite(
                checkpoint: checkpoint, weights: weights, unquantizedLinears: draft.unquantizedLinears, exemptLinears: draft.exemptLinears,
                dropsMTP: draft.dropsMTP, keepsDescription: describes)
            let file = try choice.dialect.configurationFile(rewrite.config.object ?? [:])
            texts.append((file.name, Array((JSONValue.object(file.json).text() + "\n").utf8)))
            sideFiles.removeAll { $0.name == file.name }
            for file in rewrite.sideFiles {
                texts.append((file.name, Array((JSONValue.object(file.json).text() + "\n").utf8)))
                sideFiles.removeAll { $0.name == file.name }
            }
        }
        let isDescribed = texts.contains { $0.name != naming.indexName ?? output.container.indexName } || choice.dialect.isSelfDescribing
        if !isDescribed, let weight = weights.first(where: { $0.layout?.needsDescription == true && $0.road != .passthrough }) {
            throw ConversionFailure.usage(
                "\(checkpoint.weights[weight.source].name): readers know \(weight.layout?.name ?? "") by what config.json says of it, and the source has no config.json to be written on"
            )
        }
        fingerprint = ""
        if !describes, !choice.dialect.isSelfDescribing { try removeStaleDescriptions(checkpoint) }
        fingerprint = makeFingerprint()
    }

    /// Refuses a model that lacks a weight, or has one that its architecture does not: a file that describes it would promise another model.
    private static func requireWhole(_ checkpoint: Checkpoint, _ dialect: any Dialect) throws {
        guard checkpoint.roles.architecture != nil else { return }
        let model = try ModelConfiguration(config: checkpoint.config)
        let expected = ExpectedWeights(model)
        // Those that the dialect makes of the configuration have been added by whoever asked for the plan.
        let required = expected.required + (try dialect.madeTensors(of: checkpoint.config, roles: checkpoint.roles).map(\.name))
        let names = Set(checkpoint.weights.map(\.name)), known = Set(required + expected.optional)
        if let missing = required.first(where: { !names.contains($0) }) {
            throw CheckpointFailure.contradiction(
                tensor: missing, file: "config.json", reason: "is promised and in no file; a file that says all of itself would be no model")
        }
        for weight in checkpoint.weights where !known.contains(weight.name) && !WeightName.isCompanion(weight.name) && weight.count > 0 {
            if WeightName.layer(weight.name).map({ $0 >= model.layers }) ?? false || model.architecture.carries(weight.name) { continue }
            throw CheckpointFailure.contradiction(
                tensor: weight.name, file: checkpoint.fileName(of: weight),
                reason: "is no weight of \(model.architecture.name) as config.json has it, and the file would have no place for it")
        }
    }

    /// A description of quantization that no longer holds must not be carried over, in whatever file it stands.
    private mutating func removeStaleDescriptions(_ checkpoint: Checkpoint) throws {
        let written = Set(texts.map(\.name))
        sideFiles.removeAll { QuantizationDescription.files.contains($0.name) || written.contains($0.name) }
        let native = QuantizationDescription.nativeFile
        guard let bytes = try checkpoint.sideFile(native, limit: Checkpoint.configLimit),
            let object = (try? JSONValue(parsing: bytes))?.object
        else { return }
        let plain = QuantizationDescription.removed(from: object)
        guard plain != object else { return }
        sideFiles.removeAll { $0.name == native }
        texts.append((native, Array((JSONValue.object(plain).text() + "\n").utf8)))
        notes.append(Finding(native, "its description of the quantization no longer holds and is removed"))
    }

    /// The places in every shard, several shards side by side; nil for one that is too large.
    private static func places(
        _ cuts: [[Int]], _ draft: PlanDraft, _ checkpoint: Checkpoint, _ descriptions: [FileMetadata], _ container: any Container.Type
    ) throws -> [FileArrangement?] {
        let shards = cuts.map { cut in (declarations: cut.flatMap { draft.units[$0].declarations }, copied: draft.copiedFile(cut)) }
        for shard in shards { if let obstacle = container.obstacle(to: shard.declarations) { throw ConversionFailure.usage(obstacle) } }
        let found = Lock([FileArrangement?](repeating: nil, count: cuts.count))
        try ParallelLoop.run(count: cuts.count, workers: ProcessFigures.processorCount, state: {}) { number, _ in
            let place = try place(shards[number].declarations, shards[number].copied, checkpoint, descriptions[number], container)
            found.withLock { $0[number] = place }
        }
        return found.withLock { $0 }
    }

    /// The places of a shard's tensors and what lies around them: the source file's own where it is copied.
    private static func place(
        _ declarations: [TensorDeclaration], _ copied: Int?, _ checkpoint: Checkpoint, _ description: FileMetadata,
        _ container: any Container.Type
    ) throws -> FileArrangement? {
        guard let copied, let held = checkpoint.safetensors[copied] else {
            let placed = container as? any PlacedContainer.Type ?? Safetensors.self
            return placed.arrange(declarations, metadata: description)
        }
        let offsets = Dictionary(
            checkpoint.weights.lazy.flatMap(\.stored).filter { $0.file == copied }.map { ($0.name, $0.offset) },
            uniquingKeysWith: { first, _ in first })
        let header = try checkpoint.files[copied].read(held.dataOffset, at: 0)
        return FileArrangement(
            pieces: [.init(offset: 0, bytes: header)], offsets: declarations.map { offsets[$0.name] ?? 0 }, size: try checkpoint.files[copied].size())
    }

    /// What each file says of itself beside its tensors.
    private static func descriptions(
        of checkpoint: Checkpoint, _ tensors: [TensorDeclaration], _ dialect: any Dialect, files: Int
    ) throws -> [FileMetadata] {
        let model = DescribedModel(
            config: checkpoint.languageConfig, roles: checkpoint.roles,
            name: checkpoint.source.modelName, tensors: tensors,
            sideFile: { try checkpoint.sideFile($0, limit: 64 << 20) })
        return try dialect.descriptions(of: model, files: files)
    }

    static func shardName(_ number: Int, of count: Int, _ dialect: any Dialect, _ output: OutputOptions) -> String {
        dialect.fileName(number, of: count) ?? output.container.fileName(count == 1 ? nil : (fiveDigits(number + 1), fiveDigits(count)))
    }

    private static func checkNames(_ weightMap: [(tensor: String, file: String)], isDivided: Bool) throws {
        var seen = Set<String>(minimumCapacity: weightMap.count)
        for entry in weightMap where !seen.insert(isDivided ? entry.file + "/" + entry.tensor : entry.tensor).inserted {
            throw ConversionFailure.usage("the output would hold two tensors called \(entry.tensor); leave one of the weights as stored by a recipe")
        }
    }

    static func kinds(_ names: [String]) -> String {
        let kinds = Set(names.map(WeightName.kind)).sorted()
        return kinds.prefix(4).joined(separator: ", ") + (kinds.count > 4 ? ", ..." : "")
    }

    private func makeFingerprint() -> String {
        var lines = ["recast plan 2", targetName, output.summary] + recipe.summary
        lines += source.files.map { "\($0.name) \($0.size) \($0.headerDigest)" } + [source.configDigest]
        lines += shards.map { "\($0.name) \($0.size) \(Digest.of($0.pieces.flatMap(\.bytes)))" }
        if quantizer != .rtn || !evidence.isEmpty { lines += [quantizer.rawValue, evidence] }
        lines += weights.map { weight in
            let way = weight.road == .quantize && weight.quantizer != .rtn ? " " + weight.quantizer.rawValue : ""
            return "\(weight.source) \(weight.road.rawValue) \(weight.layout?.name ?? "-")" + way
        }
        lines += texts.map { "\($0.name) \(Digest.of($0.bytes))" } + sideFiles.map(\.name)
        return Digest.of(lines.joined(separator: "\n"))
    }
}

extension SourceFingerprint {
    init(_ checkpoint: Checkpoint) throws {
        let tensors = checkpoint.safetensors.allSatisfy { $0 != nil } ? [:] : Dictionary(grouping: checkpoint.weights.flatMap(\.stored), by: \.file)
        files = try checkpoint.files.indices.map { index in
            let bytes = checkpoint.files[index]
            let size = try bytes.files.reduce(0) { $0 + (try $1.size()) }
            if let header = checkpoint.safetensors[index]?.dataOffset {
                return File(name: checkpoint.fileNames[index], size: size, headerDigest: Digest.of(try bytes.read(header, at: 0)))
            }
            let lines = (tensors[index] ?? []).map { "\($0.name) \($0.summary) \($0.offset)" }
            return File(name: checkpoint.fileNames[index], size: size, headerDigest: Digest.of(lines.joined(separator: "\n")))
        }
        configDigest = Digest.of(checkpoint.config.text(pretty: false))
    }
}
