import Calibration
import Checkpoints
import Conversion
import Formats
import Quantization
import ReferenceModels
import Runtime
import StrictJSON
import Tensors

/// What is to be converted, into what, and how: all that `recast convert` takes.
public struct ConversionRequest: Sendable {
    /// A directory, a tensor file, or an index file.
    public var source: String
    /// The directory to write; a path with the ending of a container that holds a whole checkpoint (`.h5`) is that file.
    public var destination: String
    /// The layout of the weights, as in `recast layouts`; `keep` for as they are stored.
    public var layout: String
    /// A YAML file of rules that override the layout by pattern.
    public var recipe: String?
    /// How codes and scales are chosen: `rtn`, `mse`, `hqq`, `imatrix`, `gptq` or `awq`.
    public var quantizer = "rtn"
    /// What `imatrix`, `gptq` and `awq` learn from.
    public var tokens: TokenSource?
    /// A file of ``StatisticsRequest``, or an importance matrix of llama.cpp, for `imatrix`.
    public var statistics: String?
    /// How `gptq` and `awq` go about it.
    public var calibration = CalibrationSettings()
    /// How the output is stored: `safetensors`, `zstd`, `torch`, `hdf5`; nil for what the destination's ending says, or safetensors.
    public var container: String?
    /// Zstd archives: leave bytes in their order, so that `zstd -d` restores the files; larger.
    public var keepsByteOrder = false
    /// HDF5: how chunks are compressed: `zstd`, `deflate` or `none`.
    public var hdf5Filter: String?
    /// GGUF: llama.cpp's name of the way in which the tokenizer cuts text; nil to find it.
    public var preTokenizer: String?
    /// Whose names tensors and configuration get: `huggingface` or `mistral` (Mistral Large 3); nil for those that the layout's readers ask for.
    public var names: String?
    /// GGUF: whether the modules that predict further tokens are written, where llama.cpp loads them; nil for as its converter has it.
    public var keepsPrediction: Bool?
    /// Divide the output among so many ranks of DeepSeek's inference code, as its convert.py does.
    public var modelParallel: Int?
    /// Cut the output into files of at most so many bytes; nil for as the source is cut.
    public var shardSize: Int?
    /// Write the files of one part only; nil for all.
    public var part: Part?
    /// Refuse a plan in which any value would be rounded.
    public var requiresExact = false
    /// Memory, threads, and what may be done with what is in the destination.
    public var options = RunOptions()

    /// A request with defaults for everything else.
    public init(_ source: String, to destination: String, layout: String) {
        self.source = source
        self.destination = destination
        self.layout = layout
    }

    /// Asks for the part that an argument names: `I/N`, or `auto` and `auto/N` for what the launcher of this process says.
    /// - Returns: the variable that says which it is, with its value.
    /// - Throws: ``ConversionFailure``, if nothing says it or two things do.
    public mutating func choosePart(_ argument: String, environment: [String: String]) throws -> String? {
        let (part, origin) = try Launcher.part(argument, environment)
        self.part = part
        return origin
    }

    /// What cannot be divided says so.
    fileprivate func checkPart(_ plan: ConversionPlan) throws {
        guard part != nil else { return }
        if plan.output.isSingleFile { throw ConversionFailure.usage("--part divides the files of a directory; \(destination) is one file") }
        if options.overwrite { throw ConversionFailure.usage("--part and --overwrite exclude each other: the parts before would be lost") }
        if tokens != nil {
            throw ConversionFailure.usage(
                "a conversion that runs tokens through the model cannot be divided: each layer's inputs come from the one before; for imatrix "
                    + "collect them once with `recast calibrate` and give --statistics")
        }
    }

    /// What would have to read the source again, or would lose what was made of it, says so.
    fileprivate func checkConsumption() throws {
        guard options.consumesSource else { return }
        if part != nil {
            throw ConversionFailure.usage("--consume-source: a file may be needed by several parts, and none knows when the others have it")
        }
        if options.overwrite {
            throw ConversionFailure.usage(
                "--consume-source and --overwrite exclude each other: what is overwritten may be all that is left of the source")
        }
        if tokens != nil {
            throw ConversionFailure.usage(
                "--consume-source: a conversion that runs tokens through the model reads it again when it is continued; collect statistics with `recast calibrate` and give --statistics"
            )
        }
    }

    fileprivate func checkSparse(_ plan: ConversionPlan) throws {
        guard options.isSparse, plan.output.container is any PackedContainer.Type else { return }
        throw ConversionFailure.usage("--sparse is for containers that hold tensors as they are; \(plan.output.container.name) files are packed")
    }

    /// The container that was asked for, by its name or by the destination's ending.
    package func output() throws -> OutputOptions {
        let single = ContainerRegistry.singleFile(destination)
        if single == nil, let many = ContainerRegistry.containers.first(where: { $0.endings.contains(where: destination.hasSuffix) }) {
            throw ConversionFailure.usage("\(destination) is the name of one file, and \(many.name) files are written into a directory: name that")
        }
        var output = OutputOptions(shardSize: shardSize, isSingleFile: single != nil, keepsByteOrder: keepsByteOrder)
        if let container {
            guard let named = ContainerRegistry.container(named: container) else {
                throw ConversionFailure.usage(
                    "unknown container \"\(container)\"; known are \(ContainerRegistry.containers.map { $0.name }.joined(separator: ", "))")
            }
            if let single, single != named {
                throw ConversionFailure.usage("\(destination) is the name of a \(single.name) file, not of a directory for \(container)")
            }
            output.container = named
        } else if let single {
            output.container = single
        } else if let wanted = LayoutRegistry.target(named: layout)?.dialect.container.flatMap(ContainerRegistry.container(named:)) {
            output.container = wanted
        }
        if single != nil, shardSize != nil {
            throw ConversionFailure.usage("--shard-size cuts the files of a directory; \(destination) is one file")
        }
        if keepsByteOrder, output.container != ZstdArchive.self {
            throw ConversionFailure.usage("--keep-byte-order belongs to --container zstd")
        }
        if let hdf5Filter {
            guard let filter = HDF5Filter(rawValue: hdf5Filter) else {
                throw ConversionFailure.usage(
                    "unknown filter \"\(hdf5Filter)\"; known are \(HDF5Filter.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            guard output.container == HDF5.self else { throw ConversionFailure.usage("--hdf5-filter belongs to --container hdf5") }
            output.filter = filter
        }
        return output
    }
}

/// A conversion that was planned: every output file and byte range is known, and nothing is written yet.
///
/// ```swift
/// let conversion = try Conversion.plan(ConversionRequest("DeepSeek-V3", to: "DeepSeek-V3-int4", layout: "int4-g128"))
/// let report = try await conversion.run().value()
/// print(report.sentence)
/// ```
public struct Conversion: Sendable {
    /// What was asked for.
    public let request: ConversionRequest
    package let plan: ConversionPlan
    private let checkpoint: Checkpoint
    private let evidence: QuantizationEvidence
    private let consumable: ConsumableSource?

    /// Opens the source and plans. Reads headers, and scales where an exact repacking depends on them; a plan of 671B takes seconds.
    /// - Throws: a ``Failure`` that says what is wrong with the source, or with what was asked for.
    public static func plan(_ request: ConversionRequest) throws -> Conversion {
        MemoryBudget.process.restrict(to: request.options.memory)
        let output = try request.output()
        guard let quantizer = QuantizerName(rawValue: request.quantizer) else { throw QuantizationEvidence.unknown(request.quantizer) }
        // A copy leaves stacks of experts as they are stored.
        let isCopy = request.layout == LayoutChoice.keepName && request.recipe == nil
        try request.checkConsumption()
        let consumes = request.options.consumesSource
        var checkpoint = try Checkpoint(opening: request.source, isUnstacked: !isCopy) { directory -> any SourceDirectory in
            if consumes { try ConsumedDirectory(directory) } else { directory }
        }
        let recipe = try request.recipe.map { try Recipe(reading: $0) } ?? Recipe()
        let statistics = try request.statistics.map { try InputStatistics(reading: $0) }
        let evidence = try QuantizationEvidence(
            for: Set(recipe.rules.compactMap(\.quantizer) + [quantizer]), tokens: request.tokens?.read(tokenizerOf: checkpoint),
            statistics: statistics, settings: request.calibration)
        let choice = try LayoutChoice(
            target: request.layout, recipe: recipe, quantizer: quantizer, evidence: evidence.summary, modelParallel: request.modelParallel,
            names: request.names, container: output.container, preTokenizer: request.preTokenizer, keepsPrediction: request.keepsPrediction)
        checkpoint = checkpoint.adding(try choice.dialect.madeTensors(of: checkpoint.config, roles: checkpoint.roles))
        var plan = try ConversionPlan(converting: checkpoint, choice: choice, output: output, requireExact: request.requiresExact)
        try request.checkPart(plan)
        try request.checkSparse(plan)
        if let statistics, let path = request.statistics { try plan.check(statistics, of: checkpoint, from: path) }
        let consumable = consumes ? try ConsumableSource(checkpoint, plan) : nil
        if let consumable {
            // A run that is stopped must be able to plan the same from what is left by then.
            let left = try Checkpoint(opening: request.source, isUnstacked: !isCopy) {
                consumable.remaining(of: try ConsumedDirectory($0), checkpoint)
            }.adding(try choice.dialect.madeTensors(of: checkpoint.config, roles: checkpoint.roles))
            let again = try ConversionPlan(converting: left, choice: choice, output: output, requireExact: request.requiresExact)
            guard again.fingerprint == plan.fingerprint, again.notes == plan.notes else {
                throw ConversionFailure.usage(
                    "--consume-source: this conversion is planned by values of large tensors, so that it could not be continued without them; leave it out"
                )
            }
        }
        return Conversion(request: request, plan: plan, checkpoint: checkpoint, evidence: evidence, consumable: consumable)
    }

    /// The address that opens the same source again: of a hub's repository the commit is part of it.
    public var source: String { checkpoint.address }

    /// What a user should know: exceptions, odd ranges, missing layers.
    public var notes: [String] { checkpoint.source.notes + plan.notes.map { "\($0)" } + (ScaleCheck.omission(in: checkpoint).map { [$0] } ?? []) }

    /// What a user must know before relying on the output.
    public var warnings: [String] { plan.warnings.map { "\($0)" } }

    /// Tensor files that this conversion writes: of a part, its own.
    public var fileCount: Int { request.part.map { $0.shards(of: plan).count } ?? plan.shards.count }

    /// Bytes of the output's tensor files.
    public var outputBytes: Int { plan.outputBytes }

    /// Identifies source, recipe and every output byte range: SHA-256 in hexadecimal.
    public var fingerprint: String { plan.fingerprint }

    /// The plan for people: which way every kind of weight goes, and why.
    public var text: String { PlanPreview(plan, checkpoint).text }

    /// The plan for programs: one JSON document.
    public var json: String { JSONValue.object(PlanPreview(plan, checkpoint).json).text() }

    /// Writes the output and audits it. Bytes depend on the plan only: not on threads, memory, or how often it was interrupted; a run that was
    /// stopped or killed continues when the same conversion is run again.
    /// - Throws: while iterated, a ``Failure``; what is under a final name by then is complete.
    public func run() -> Work<ConversionProgress, RunReport> {
        let conversion = self
        return Work { stop, tell in try conversion.carryOut(stop, tell) }
    }

    /// Joins the parts that a conversion was divided into, each run with ``ConversionRequest/part``: writes index, configuration and manifest
    /// once all are finished.
    /// - Returns: nil if the parts were joined before and nothing is left to do.
    /// - Throws: while iterated, a ``Failure``: ``ConversionFailure/unfinishedParts(_:of:path:)`` names the parts that are missing.
    public static func finish(_ destination: String, memory: Int = 2 << 30) -> Work<ConversionProgress, RunReport?> {
        Work { stop, _ in
            guard let document = try ConversionRun.dividedRequest(destination) else {
                guard try ConversionRun.isFinished(destination) else {
                    throw ConversionFailure.usage("\(destination): no conversion in parts was begun here")
                }
                return nil
            }
            var request = try DividedRequest.request(document, destination: destination)
            request.options.memory = memory
            let conversion = try plan(request)
            return try ConversionRun(
                plan: conversion.plan, checkpoint: conversion.checkpoint, destination: destination, options: request.options
            ).join(stop: stop)
        }
    }

    private func carryOut(_ stop: StopToken, _ tell: @escaping @Sendable (WorkEvent<ConversionProgress, RunReport>) -> Void) throws -> RunReport {
        MemoryBudget.process.restrict(to: request.options.memory)
        let statistics = try evidence.statistics(of: checkpoint, request.options, stop) { tell(.progress(.statistics(layer: $0, of: $1))) }
        let stage = evidence.stage(
            for: plan, of: checkpoint, statistics, progress: { tell(.progress(.calibration(layer: $0, of: $1))) },
            finished: { report in QuantizationEvidence.notes(report).forEach { tell(.note($0)) } })
        let run = ConversionRun(
            plan: plan, checkpoint: checkpoint, destination: request.destination, statistics: statistics, calibration: stage,
            part: request.part, request: request.part.map { _ in DividedRequest.document(request, source: checkpoint.address) },
            consumable: consumable, options: request.options)
        return try run.execute(stop: stop) { tell(.progress(.run($0))) }
    }
}

/// How far a conversion is.
public enum ConversionProgress: Sendable {
    /// Statistics of inputs are collected, layer by layer.
    case statistics(layer: Int, of: Int)
    /// Weights are quantized inside the forward pass, layer by layer.
    case calibration(layer: Int, of: Int)
    /// Weights are written and audited.
    case run(RunProgress)
}
