import ArgumentParser
import Recast

struct ForwardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forward", abstract: "Runs the reference forward pass and writes its logits.",
        discussion: "The logits are bit-identical for any number of jobs and any instruction set, so their digest can stand in a CI check.")

    @Argument(help: "A directory, a safetensors file, or an index file.") var checkpoint: String
    @Option(help: ArgumentHelp("Sequences: JSON {\"sequences\": [[...]]} or safetensors input_ids.", valueName: "file")) var tokens: String
    @Option(help: ArgumentHelp("The safetensors file to write.", valueName: "file")) var logits: String
    @Flag(help: "Write the residual stream after every layer too.") var hiddenStates = false
    @Option(help: "Arithmetic: f32, bf16 or fp8.") var precision: Precision = .f32
    @Option(help: ArgumentHelp("Upper bound on working memory.", valueName: "size")) var memory = SizeArgument(argument: "2GiB")!
    @Option(help: ArgumentHelp("Worker threads; one a processor by default.", valueName: "n")) var jobs: Int?

    func run() throws {
        ProcessFigures.keepFreedMemory()
        let interruption = Interruption()
        let pass = try ForwardPass(
            Checkpoint(opening: checkpoint), tokens: TokenBatch(reading: tokens), precision: precision,
            options: RunOptions(memory: memory.bytes, jobs: jobs))
        let started = ProcessFigures.now
        try LogitsFile(logits, pass.configuration, pass.tokens, hiddenStates: hiddenStates).write(pass, stop: interruption.token)
        let seconds = ProcessFigures.now - started
        Console.print(
            "\(pass.tokens.count.grouped) tokens, \(Int(Double(pass.tokens.count) / seconds).grouped) tokens/s, peak memory \(ByteSize(ProcessFigures.peakResidentBytes))"
        )
    }
}
