import Architectures
import Formats
import Tensors

/// Writes the result of a forward pass as one safetensors file: `logits` F32 [n, t, vocabulary], a shorter sequence padded with
/// NaN, and on request `hidden.L` F32 [n, t, hidden] (L = 0 is the embedding, L = k the residual stream after layer k - 1).
package struct LogitsFile {
    private let file: PositionedFile
    private let path: String
    private let tokens: TokenBatch
    private let length: Int
    private let offsets: [String: Int]

    package init(_ path: String, _ configuration: ModelConfiguration, _ tokens: TokenBatch, hiddenStates: Bool) throws {
        length = tokens.ranges.map(\.count).max() ?? 0
        let shape = [tokens.ranges.count, length]
        var declarations = [TensorDeclaration(name: "logits", type: .f32, shape: shape + [configuration.vocabulary])]
        if hiddenStates {
            declarations += (0...configuration.layers).map { .init(name: "hidden.\($0)", type: .f32, shape: shape + [configuration.hiddenSize]) }
        }
        guard let place = SafetensorsHeader.layout(declarations, metadata: [("format", "pt")]) else {
            throw ReferenceFailure.tooManyLogits
        }
        self.path = path
        self.tokens = tokens
        file = try PositionedFile.openForWriting(path + ".partial", truncate: true)
        try file.resize(to: place.size)
        try file.write(place.header, at: 0)
        offsets = Dictionary(uniqueKeysWithValues: zip(declarations.map(\.name), place.offsets))
    }

    /// Takes the residual stream of a batch whose first sequence has the number `firstSequence`.
    package func add(hidden values: Activations, layer: Int, of batch: TokenBatch, firstSequence: Int) throws {
        try put("hidden.\(layer)", values, rows: 0..<batch.count, batch, firstSequence)
    }

    /// Takes the logits of some rows of a batch.
    package func add(logits values: Activations, rows: Range<Int>, of batch: TokenBatch, firstSequence: Int) throws {
        try put("logits", values, rows: rows, batch, firstSequence)
    }

    /// Makes the file appear under its name.
    package func finish() throws {
        try file.synchronize()
        try FileTree.rename(path + ".partial", to: path)
    }

    /// Removes what has been written so far: the pass has failed.
    package func discard() { try? FileTree.remove(path + ".partial") }

    /// Rows of a matrix to their places, padding behind a sequence's last row.
    private func put(_ name: String, _ values: Activations, rows: Range<Int>, _ batch: TokenBatch, _ firstSequence: Int) throws {
        guard let start = offsets[name] else { return }
        let rowBytes = values.columns * 4
        let padding = [UInt8](repeating: 0xFF, count: rowBytes)  // a NaN in every four bytes
        for (index, range) in batch.ranges.enumerated() {
            let number = firstSequence + index
            let part = range.clamped(to: rows)
            if !part.isEmpty {
                let bytes = UnsafeRawBufferPointer(start: values[part.lowerBound - rows.lowerBound], count: part.count * rowBytes)
                try file.write(bytes, at: start + (number * length + part.lowerBound - range.lowerBound) * rowBytes)
            }
            // Padding goes with the rows that end the sequence: once, whatever the chunks.
            if range.isEmpty ? rows.lowerBound == 0 : rows.contains(range.upperBound - 1) {
                for position in range.count..<max(length, range.count) {
                    try file.write(padding, at: start + (number * length + position) * rowBytes)
                }
            }
        }
    }
}
