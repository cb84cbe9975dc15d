import Formats
import Tensors

/// Reads logits and hidden states from a safetensors file: what ``LogitsFile`` writes, or the golden outputs of another program.
///
/// A tensor is F32 [n, t, width], or [t, width] for the first sequence alone.
package struct LogitsReader: Sendable {
    package let path: String
    private let file: PositionedFile
    private let tensors: [String: StoredTensor]

    /// Nil if the file holds no `logits` F32 [n, t, vocabulary].
    package init?(_ header: SafetensorsHeader, _ file: PositionedFile) {
        path = file.path
        self.file = file
        tensors = Dictionary(
            uniqueKeysWithValues: header.tensors.filter { $0.type == .f32 && (2...3).contains($0.shape.count) }.map { ($0.name, $0) })
        guard tensors["logits"]?.shape.count == 3 else { return nil }
    }

    /// Sequences, longest sequence, and vocabulary of `logits`.
    package var shape: [Int] { tensors["logits"]?.shape ?? [0, 0, 0] }

    /// Refuses a file in which a tensor that is compared has another width than the model.
    package func check(hidden: Int, vocabulary: Int) throws {
        for (name, tensor) in tensors.sorted(by: { $0.key < $1.key }) {
            let width: Int
            if name == "logits" || name == "mtp.logits" { width = vocabulary } else if name.hasPrefix("hidden.") { width = hidden } else { continue }
            guard tensor.shape.last == width else {
                throw ReferenceFailure.logits(path: path, tensor: name, width: tensor.shape.last ?? 0, expected: width)
            }
        }
    }

    /// How many leading rows of a batch a tensor knows; nil if none. `ranges` are the rows of the batch's sequences.
    package func coverage(_ name: String, firstSequence: Int, of ranges: [Range<Int>]) -> Int? {
        guard let tensor = tensors[name] else { return nil }
        let sequences = tensor.shape.count == 3 ? tensor.shape[0] : 1
        let length = tensor.shape[tensor.shape.count - 2]
        let known = ranges.prefix(max(0, sequences - firstSequence)).prefix { $0.count <= length }
        guard let last = known.last, last.upperBound > 0 else { return nil }
        return last.upperBound
    }

    /// Some rows of a batch, [rows, width]. They must be covered.
    package func rows(_ name: String, firstSequence: Int, ranges: [Range<Int>], _ rows: Range<Int>) throws -> Activations {
        guard let tensor = tensors[name], let width = tensor.shape.last else { throw ReferenceFailure.missingWeight(name) }
        let length = tensor.shape[tensor.shape.count - 2]
        let result = try Activations(rows: rows.count, columns: width)
        for (number, range) in ranges.enumerated() {
            let part = range.clamped(to: rows)
            guard !part.isEmpty else { continue }
            let target = UnsafeMutableRawBufferPointer(start: result[part.lowerBound - rows.lowerBound], count: part.count * width * 4)
            let row = (firstSequence + number) * length + part.lowerBound - range.lowerBound
            let read = try file.read(into: target, at: tensor.offset + row * width * 4)
            guard read == target.count else { throw ReferenceFailure.tokens(path: path, reason: "the file has been cut") }
        }
        return result
    }
}
