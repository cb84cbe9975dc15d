import ArgumentParser
import Foundation
import Recast

struct ConvertCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert", abstract: "Turns a checkpoint into another layout, and audits what it wrote.",
        discussion: """
            Layouts: keep, \(LayoutRegistry.targets.filter(\.isListed).map(\.name).joined(separator: ", ")).
            For a destination that ends in .gguf: bf16, f16, f32, \(LlamaCppFileType.all.map(\.name).joined(separator: ", ")).
            A run that was stopped or killed continues when the same command is given again.
            """)

    @Argument(help: "A directory, a tensor file, an index file, or an hf://, s3:// or https:// address.") var source: String
    @Argument(help: "The directory to write; it is created if it is missing. A path that ends in .gguf or .h5 is that file.") var destination: String
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
    @Option(help: ArgumentHelp("GGUF: llama.cpp's name of the way in which the tokenizer cuts text; found by default.", valueName: "name"))
    var preTokenizer: String?
    @Flag(help: "GGUF: write multi-token prediction where llama.cpp loads it, though its converter leaves it out (deepseek2).") var withMtp = false
    @Flag(help: "GGUF: leave multi-token prediction out, though llama.cpp's converter writes it.") var withoutMtp = false
    @Option(help: ArgumentHelp("Whose names tensors and configuration get: huggingface, or mistral (Mistral Large 3).", valueName: "dialect"))
    var names: String?
    @Option(help: ArgumentHelp("Divide the output among ranks of DeepSeek's inference code, as its convert.py does.", valueName: "ranks"))
    var modelParallel: Int?
    @Option(
        help: ArgumentHelp(
            "Write the files of one part only, so that machines share the work: I/N, or auto or auto/N under Slurm, Kubernetes, MPI and the like. `recast finish` joins the parts.",
            valueName: "part"))
    var part: String?
    @OptionGroup var resources: ResourceOptions
    @OptionGroup var progress: ProgressOptions
    @Option(help: ArgumentHelp("Cut the output into files of at most this size; as the source is cut by default.", valueName: "size"))
    var shardSize: SizeArgument?
    @Flag(help: "Leave pages of zeros as holes of the files, where the file system can.") var sparse = false
    @Flag(
        help: "Free the large tensors of each source file once all that is made of it is durable and audited; the source is no checkpoint afterwards."
    )
    var consumeSource = false
    @Flag(help: "Refuse to start if any value would be rounded.") var requireExact = false
    @Flag(help: "Carry NaN and infinite values of the source instead of refusing them.") var allowNonFinite = false
    @Flag(help: "Continue a run, or report that it is finished.") var resume = false
    @Flag(help: "Replace an earlier conversion in the destination.") var overwrite = false
    @Flag(help: "Show the plan and write nothing.") var dryRun = false
    @Flag(help: "One JSON document on standard output.") var json = false
    @Flag(help: "No progress, no notes.") var quiet = false

    func validate() throws {
        if withMtp && withoutMtp { throw ValidationError("--with-mtp and --without-mtp exclude each other") }
        if resume && overwrite { throw ValidationError("--resume and --overwrite exclude each other") }
        if let modelParallel, modelParallel < 1 || modelParallel > 4096 { throw ValidationError("--model-parallel must be between 1 and 4096") }
        try asMistake { try request().output() }
    }

    func request() -> ConversionRequest {
        var request = ConversionRequest(source, to: destination, layout: to)
        request.recipe = recipe
        quantization.fill(&request)
        request.container = container
        request.keepsByteOrder = keepByteOrder
        request.hdf5Filter = hdf5Filter
        request.names = names
        request.keepsPrediction = withMtp ? true : withoutMtp ? false : nil
        request.modelParallel = modelParallel
        request.preTokenizer = preTokenizer
        request.shardSize = shardSize?.bytes
        request.requiresExact = requireExact
        request.options = resources.runOptions
        (request.options.overwrite, request.options.resume) = (overwrite, resume)
        request.options.allowsNonFinite = allowNonFinite
        request.options.isSparse = sparse
        request.options.consumesSource = consumeSource
        return request
    }

    func run() async throws {
        var request = request()
        if let part {
            let origin = try request.choosePart(part, environment: ProcessInfo.processInfo.environment)
            if let chosen = request.part, !quiet { Console.error("part \(chosen.number) of \(chosen.count)\(origin.map { " (\($0))" } ?? "")") }
        }
        let conversion = try Conversion.plan(request)
        if dryRun { return Console.print(json ? conversion.json : conversion.text) }
        if !quiet { progress.tell(.note, conversion.notes) }
        progress.tell(.warning, conversion.warnings)
        let report = try await conversion.run().follow(progress, isQuiet: quiet) { progress, line in
            switch progress {
            case .run(let run): line.show(run.figures, run.line)
            case .statistics(let layer, let layers): line.show { _ in "statistics of layer \(layer + 1) of \(layers)" }
            case .calibration(let layer, let layers): line.tell("calibrating layer \(layer + 1) of \(layers)")
            }
        }
        show(report, conversion)
        if request.part != nil, !report.alreadyFinished, !quiet {
            progress.tell(.note, ["when all parts have finished, `recast finish \(destination)` writes index, configuration and manifest"])
        }
    }

    private func show(_ report: RunReport, _ conversion: Conversion) {
        if json {
            let document: JSONObject = [
                "schema": .int(1), "finished_before": .bool(report.alreadyFinished), "audit": .object(report.audit.json),
                "claim": .string(report.sentence), "bytes_read": .int(report.bytesRead), "bytes_written": .int(report.bytesWritten),
                "output_bytes": .int(report.outputBytes), "freed_bytes": .int(report.freedBytes),
                "seconds": .double((report.seconds * 1000).rounded() / 1000), "peak_rss": .int(ProcessFigures.peakResidentBytes),
                "notes": .array((conversion.notes + report.notes).map(JSONValue.string)),
                "warnings": .array(conversion.warnings.map(JSONValue.string)),
            ]
            Console.print(JSONValue.object(document).text())
            return
        }
        if !quiet { progress.tell(.note, report.notes) }
        if report.alreadyFinished {
            Console.print("\(destination): \(report.sentence).")
        } else {
            let files = conversion.fileCount
            let rate = report.seconds > 0 ? Double(report.bytesWritten) / report.seconds / 1e9 : 0
            Console.print("\(report.audit.sentence)")
            Console.print(
                "\(ByteSize(report.outputBytes)) in \(files) \(files == 1 ? "file" : "files"), \((report.seconds * 100).rounded() / 100) s, \((rate * 100).rounded() / 100) GB/s, peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
            )
        }
    }
}
