import ArgumentParser
import Recast

struct ForwardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forward", abstract: "Runs the reference forward pass and writes its logits.",
        discussion: "The logits are bit-identical for any number of jobs and any instruction set, so their digest can stand in a CI check.")

    @Argument(help: "A directory, a tensor file, or an index file.") var checkpoint: String
    @OptionGroup var sequences: SequenceOptions
    @Option(help: ArgumentHelp("The safetensors file to write.", valueName: "file")) var logits: String?
    @Option(help: ArgumentHelp("Write a compact form of the logits, for `verify` to compare with.", valueName: "file")) var saveReference: String?
    @Flag(help: "Write the residual stream after every layer too.") var hiddenStates = false
    @Option(help: "Arithmetic: f32, bf16 or fp8.") var precision: Precision = .f32
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?

    func validate() throws {
        if let jobs, jobs < 1 || jobs > 1024 { throw ValidationError("--jobs must be between 1 and 1024") }
        if !sequences.isGiven { throw ValidationError("give the sequences to run with --tokens or --text") }
        if logits == nil, saveReference == nil { throw ValidationError("give a file to write with --logits or --save-reference") }
        if hiddenStates, logits == nil { throw ValidationError("--hidden-states go into the file of --logits") }
    }

    func run() throws {
        for path in [logits, saveReference].compactMap({ $0 }) { try OutputPath.check(path) }
        MemoryBudget.process.restrict(to: memory.bytes)
        ProcessFigures.keepFreedMemory()
        let interruption = Interruption()
        let source = try Checkpoint(opening: checkpoint)
        guard let tokens = try sequences.read(tokenizerOf: source) else { return }
        let run = try ForwardRun(source, tokens: tokens, precision: precision, options: RunOptions(memory: memory.bytes, jobs: jobs))
        let started = ProcessFigures.now
        let file = try logits.map { try LogitsFile($0, run.configuration, tokens, hiddenStates: hiddenStates) }
        let recorder = saveReference == nil ? nil : try CompactReference.Recorder(tokens, vocabulary: run.configuration.vocabulary)
        var unusable = 0
        try run.execute(into: file, stop: interruption.token) { logits in
            unusable += logits.notFiniteRows
            recorder?.add(logits)
        }
        if let saveReference { try recorder?.write(to: saveReference) }
        let seconds = ProcessFigures.now - started
        Console.print(
            "\(tokens.count.grouped) tokens, \(Figures.whole(Double(tokens.count) / seconds, in: 0...Int.max / 2).grouped) tokens/s, peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
        )
        // They are written all the same, for whoever looks for the cause.
        if unusable > 0 { throw ReferenceFailure.notFinite(positions: unusable, of: tokens.count) }
    }
}
