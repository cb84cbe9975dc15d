import Checkpoints
import Formats
import StrictJSON
import Tensors

/// Sequences of token numbers, laid one after another.
package struct TokenBatch: Sendable, Equatable {
    package let all: [Int]
    /// Where each sequence lies in ``all``.
    package let ranges: [Range<Int>]

    package init(_ sequences: [[Int]]) {
        all = Array(sequences.joined())
        var start = 0
        ranges = sequences.map { sequence in
            defer { start += sequence.count }
            return start..<(start + sequence.count)
        }
    }

    /// Cuts the tokens of one text into sequences of `length`, each led by `first` if there is one (a beginning-of-sequence token).
    package init(cutting tokens: [Int], length: Int, first: Int? = nil) {
        let lead = first.map { [$0] } ?? []
        self.init(TileSequence(rows: tokens.count, step: max(1, length - lead.count)).map { lead + tokens[$0] })
    }

    package var count: Int { all.count }

    /// Some of the sequences.
    package func sequences(_ numbers: Range<Int>) -> TokenBatch { TokenBatch(numbers.map { Array(all[ranges[$0]]) }) }

    package static let sizeLimit = 1 << 30

    /// Reads `{"sequences": [[...], ...]}`, or `input_ids` I64 [n, t] of a safetensors file.
    package init(reading path: String) throws {
        let file = try PositionedFile.openForReading(path)
        let size = try file.size()
        func failure(_ reason: String) -> ReferenceFailure { .tokens(path: path, reason: reason) }
        guard size <= Self.sizeLimit else { throw failure("the file is larger than 1 GiB") }
        var sequences: [[Int]] = []
        if try file.read(1, at: 0).first == UInt8(ascii: "{") {
            do {
                var scanner = JSONScanner(try file.read(size, at: 0))
                var found = false
                try scanner.beginObject()
                while let key = try scanner.nextKey() {
                    guard key == "sequences" else {
                        _ = try JSONValue(scanning: &scanner)
                        continue
                    }
                    guard !found else { throw failure("\"sequences\" stands twice") }
                    found = true
                    try scanner.beginArray()
                    while try scanner.nextElement() {
                        var sequence: [Int] = []
                        try scanner.beginArray()
                        while try scanner.nextElement() { sequence.append(try scanner.count()) }
                        sequences.append(sequence)
                    }
                }
                try scanner.finish()
                guard found else { throw failure("there is no \"sequences\"") }
            } catch let error as JSONError {
                throw failure("the JSON text is malformed: \(error)")
            }
        } else {
            let header = try SafetensorsHeader(reading: file)
            guard let tensor = header.tensors.first(where: { $0.name == "input_ids" }), tensor.type == .i64, tensor.shape.count == 2,
                tensor.byteCount > 0
            else {
                throw failure("there is no input_ids I64 [n, t]")
            }
            let bytes = try file.read(tensor.byteCount, at: tensor.offset)
            let numbers = bytes.withUnsafeBytes { raw in
                (0..<tensor.byteCount / 8).map { Int(raw.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self)) }
            }
            let length = tensor.shape[1]
            sequences = (0..<tensor.shape[0]).map { Array(numbers[($0 * length)..<(($0 + 1) * length)]) }
        }
        guard sequences.contains(where: { !$0.isEmpty }) else { throw failure("there are no tokens") }
        self.init(sequences)
    }

    func check(vocabulary: Int) throws {
        for (number, range) in ranges.enumerated() {
            for (position, token) in all[range].enumerated() where !(0..<vocabulary).contains(token) {
                throw ReferenceFailure.token(sequence: number, position: position, value: token, vocabulary: vocabulary)
            }
        }
    }
}
