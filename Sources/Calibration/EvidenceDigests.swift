import Conversion
import Quantization
import ReferenceModels

extension TokenBatch {
    /// SHA-256 of the sequences.
    package var digest: String { Digest.of(ranges.map { all[$0].map(String.init).joined(separator: " ") }.joined(separator: "\n")) }
}

extension InputStatistics {
    /// SHA-256 of all entries.
    package var digest: String {
        if let matrix { return Digest.of(matrix.identity) }
        return Digest.of(
            entries.sorted { $0.key < $1.key }.map { module, entry in
                "\(module) \(entry.count) " + entry.meanSquares.map { String($0.bitPattern, radix: 16) }.joined(separator: " ")
            }.joined(separator: "\n"))
    }
}
