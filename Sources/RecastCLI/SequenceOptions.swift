import ArgumentParser
import Recast

/// Where the tokens of a forward pass come from.
struct SequenceOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Sequences: JSON {\"sequences\": [[...]]} or safetensors input_ids.", valueName: "file")) var tokens: String?

    @Option(help: ArgumentHelp("A text in UTF-8 instead; the checkpoint's tokenizer.json says how it is read.", valueName: "file")) var text: String?
    @Option(help: ArgumentHelp("Tokens in a sequence that --text is cut into.", valueName: "n")) var sequenceLength = 512

    func validate() throws {
        if tokens != nil, text != nil { throw ValidationError("--tokens and --text exclude each other") }
        if sequenceLength < 2 { throw ValidationError("--sequence-length must be at least 2") }
    }

    /// Nil if none were asked for.
    var source: TokenSource? { tokens.map(TokenSource.file) ?? text.map { .text($0, length: sequenceLength) } }
}
