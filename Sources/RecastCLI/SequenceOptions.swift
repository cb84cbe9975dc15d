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

    var isGiven: Bool { tokens != nil || text != nil }

    /// Nil if none were asked for.
    func read(tokenizerOf checkpoint: Checkpoint) throws -> TokenBatch? {
        if let tokens { return try TokenBatch(reading: tokens) }
        guard let text else { return nil }
        let bytes = try FileTree.read(text, limit: 1 << 30)
        guard let string = String(validating: bytes, as: UTF8.self) else { throw TokenizerFailure.notText(path: text) }
        let path = checkpoint.directory + "/tokenizer.json"
        let inside = try checkpoint.sideFile("tokenizer.json", limit: Tokenizer.sizeLimit)
        let tokenizer = try inside.map { try Tokenizer(bytes: $0, path: path) } ?? Tokenizer(reading: path)
        let tokens = tokenizer.encode(string)
        guard !tokens.isEmpty else { throw TokenizerFailure.malformed(path: text, reason: "the text has no tokens") }
        return TokenBatch(cutting: tokens, length: sequenceLength, first: try beginning(checkpoint))
    }

    /// The token that begins every sequence, if `tokenizer_config.json` asks for one.
    private func beginning(_ checkpoint: Checkpoint) throws -> Int? {
        guard let bytes = try checkpoint.sideFile("tokenizer_config.json", limit: Tokenizer.sizeLimit), let config = try? JSONValue(parsing: bytes),
            config["add_bos_token"]?.bool == true
        else { return nil }
        return checkpoint.config["bos_token_id"]?.int
    }
}
