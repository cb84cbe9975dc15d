import ArgumentParser
import Recast

struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert", abstract: "Turns a checkpoint into another layout, and audits what it wrote.",
        discussion: """
            Layouts: keep, \(LayoutRegistry.targets.filter(\.isListed).map(\.name).joined(separator: ", ")).
            A run that was stopped or killed continues when the same command is given again.
            """)

    @Argument(help: "A directory, a tensor file, or an index file.") var source: String
    @Argument(help: "The directory to write; it is created if it is missing. A path that ends in .h5 is that file.") var destination: String
    @Option(help: "The layout of the weights.") var to: String
    @Option(help: ArgumentHelp("Rules that override the layout by pattern (YAML).", valueName: "file")) var recipe: String?
    @OptionGroup var quantization: QuantizationOptions
    @Option(
        help: ArgumentHelp(
            "How the output is stored: \(ContainerRegistry.containers.map { $0.name }.joined(separator: ", ")).", valueName: "container"))
    var container: String?
    @Flag(help: "Zstd archives: leave bytes in their order, so that `zstd -d` restores the files; larger.") var keepByteOrder = false
    @Option(
        help: ArgumentHelp("HDF5: how chunks are compressed: \(HDF5Filter.allCases.map(\.rawValue).joined(separator: ", ")).", valueName: "filter"))
    var hdf5Filter: String?
    @Option(help: ArgumentHelp("Divide the output among ranks of DeepSeek's inference code, as its convert.py does.", valueName: "ranks"))
    var modelParallel: Int?
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?
    @Option(help: ArgumentHelp("Cut the output into files of at most this size; as the source is cut by default.", valueName: "size"))
    var shardSize: SizeArgument?
    @Flag(help: "Refuse to start if any value would be rounded.") var requireExact = false
    @Flag(help: "Carry NaN and infinite values of the source instead of refusing them.") var allowNonFinite = false
    @Flag(help: "Continue a run, or report that it is finished.") var resume = false
    @Flag(help: "Replace an earlier conversion in the destination.") var overwrite = false
    @Flag(help: "Show the plan and write nothing.") var dryRun = false
    @Flag(help: "One JSON document on standard output.") var json = false
    @Flag(help: "No progress, no notes.") var quiet = false

    func validate() throws {
        if resume && overwrite { throw ValidationError("--resume and --overwrite exclude each other") }
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
        if let modelParallel, modelParallel < 1 || modelParallel > 4096 { throw ValidationError("--model-parallel must be between 1 and 4096") }
        _ = try output()
    }

    func run() throws {
        MemoryBudget.process.restrict(to: memory.bytes)
        // A copy leaves stacks of experts as they are stored.
        let checkpoint = try Checkpoint(opening: source, isUnstacked: to != LayoutChoice.keepName || self.recipe != nil)
        let recipe = try recipe.map { try Recipe(reading: $0) } ?? Recipe()
        let evidence = try quantization.evidence(recipe, tokenizerOf: checkpoint)
        let choice = try LayoutChoice(
            target: to, recipe: recipe, quantizer: quantization.quantizer, evidence: evidence.summary, modelParallel: modelParallel)
        let plan = try ConversionPlan(converting: checkpoint, choice: choice, output: output(), requireExact: requireExact)
        if dryRun {
            let preview = PlanPreview(plan, checkpoint)
            Console.print(json ? JSONValue.object(preview.json).text() : preview.text)
            return
        }
        if !quiet { plan.notes.forEach { Console.error("note: \($0)") } }
        plan.warnings.forEach { Console.error("warning: \($0)") }
        let interruption = Interruption()
        var options = RunOptions(memory: memory.bytes, jobs: jobs, overwrite: overwrite, resume: resume)
        options.allowsNonFinite = allowNonFinite
        var progress = ProgressLine(isQuiet: quiet)
        let report: RunReport
        do {
            let calibration = try evidence.prepare(checkpoint, plan, options, interruption.token, isQuiet: quiet)
            let run = ConversionRun(
                plan: plan, checkpoint: checkpoint, destination: destination, statistics: calibration.statistics, calibration: calibration.stage,
                options: options)
            report = try run.execute(stop: interruption.token) { progress.show($0.line) }
        } catch {
            progress.end()
            throw error
        }
        progress.end()
        show(report, plan)
    }

    /// The container that was asked for, by its name or by the destination's ending.
    private func output() throws -> OutputOptions {
        let single = ContainerRegistry.singleFile(destination)
        var options = OutputOptions(shardSize: shardSize?.bytes, isSingleFile: single != nil, keepsByteOrder: keepByteOrder)
        if let container {
            guard let named = ContainerRegistry.container(named: container) else {
                throw ValidationError(
                    "unknown container \"\(container)\"; known are \(ContainerRegistry.containers.map { $0.name }.joined(separator: ", "))")
            }
            if let single, single != named {
                throw ValidationError("\(destination) is the name of a \(single.name) file, not of a directory for \(container)")
            }
            options.container = named
        } else if let single {
            options.container = single
        }
        if single != nil, shardSize != nil { throw ValidationError("--shard-size cuts the files of a directory; \(destination) is one file") }
        if keepByteOrder, options.container != ZstdArchive.self { throw ValidationError("--keep-byte-order belongs to --container zstd") }
        if let hdf5Filter {
            guard let filter = HDF5Filter(rawValue: hdf5Filter) else {
                throw ValidationError("unknown filter \"\(hdf5Filter)\"; known are \(HDF5Filter.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            guard options.container == HDF5.self else { throw ValidationError("--hdf5-filter belongs to --container hdf5") }
            options.filter = filter
        }
        return options
    }

    private func show(_ report: RunReport, _ plan: ConversionPlan) {
        if json {
            let document: JSONObject = [
                "schema": .int(1), "finished_before": .bool(report.alreadyFinished), "audit": .object(report.audit.json),
                "claim": .string(report.sentence), "bytes_read": .int(report.bytesRead), "bytes_written": .int(report.bytesWritten),
                "output_bytes": .int(report.outputBytes),
                "seconds": .double((report.seconds * 1000).rounded() / 1000), "peak_rss": .int(ProcessFigures.peakResidentBytes),
                "notes": .array((plan.notes + report.findings).map { .string("\($0)") }),
                "warnings": .array(plan.warnings.map { .string("\($0)") }),
            ]
            Console.print(JSONValue.object(document).text())
            return
        }
        if !quiet { report.findings.forEach { Console.error("note: \($0)") } }
        if report.alreadyFinished {
            Console.print("\(destination): \(report.sentence).")
        } else {
            let rate = report.seconds > 0 ? Double(report.bytesWritten) / report.seconds / 1e9 : 0
            Console.print("\(report.audit.sentence)")
            Console.print(
                "\(ByteSize(report.outputBytes)) in \(plan.shards.count) \(plan.shards.count == 1 ? "file" : "files"), \((report.seconds * 100).rounded() / 100) s, \((rate * 100).rounded() / 100) GB/s, peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
            )
        }
    }
}
