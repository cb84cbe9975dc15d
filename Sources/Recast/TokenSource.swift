import Checkpoints
import ReferenceModels
import StrictJSON
import Tensors
import Tokenizers

/// Where the token sequences of a forward pass come from.
public enum TokenSource: Sendable, Equatable {
    /// A file: JSON `{"sequences": [[...], ...]}`, or safetensors with `input_ids` I64 [sequences, tokens].
    case file(String)
    /// A text file in UTF-8, read as the checkpoint's `tokenizer.json` says and cut into sequences of `length` tokens.
    case text(String, length: Int)

    /// The file's path.
    package var path: String {
        switch self {
        case .file(let path), .text(let path, _): path
        }
    }

    /// Reads the sequences.
    /// - Parameter checkpoint: whose tokenizer reads a text.
    package func read(tokenizerOf checkpoint: Checkpoint) throws -> TokenBatch {
        switch self {
        case .file(let path): return try TokenBatch(reading: path)
        case .text(let path, let length):
            let bytes = try FileTree.read(path, limit: 1 << 30)
            guard let string = String(validating: bytes, as: UTF8.self) else { throw TokenizerFailure.notText(path: path) }
            let model = checkpoint.directory + "/tokenizer.json"
            let inside = try checkpoint.sideFile("tokenizer.json", limit: Tokenizer.sizeLimit)
            let tokenizer = try inside.map { try Tokenizer(bytes: $0, path: model) } ?? Tokenizer(reading: model)
            let tokens = tokenizer.encode(string)
            guard !tokens.isEmpty else { throw TokenizerFailure.malformed(path: path, reason: "the text has no tokens") }
            return TokenBatch(cutting: tokens, length: length, first: try Self.beginning(checkpoint))
        }
    }

    /// The token that begins every sequence, if `tokenizer_config.json` asks for one.
    private static func beginning(_ checkpoint: Checkpoint) throws -> Int? {
        guard let bytes = try checkpoint.sideFile("tokenizer_config.json", limit: Tokenizer.sizeLimit), let config = try? JSONValue(parsing: bytes),
            config["add_bos_token"]?.bool == true
        else { return nil }
        return checkpoint.config["bos_token_id"]?.int
    }
}
