import Architectures
import Formats
import Tensors

/// llama.cpp's importance matrix: for each stored tensor and each matrix in it the mean square of every column's inputs.
///
/// Two forms are read: GGUF with `NAME.in_sum2` F32 [matrices, columns] and `NAME.counts` F32 [matrices, 1], and the older one of bare records. Source:
/// llama.cpp:common/imatrix-loader.cpp, tools/quantize/quantize.cpp.
package struct ImportanceMatrix: Sendable {
    /// By the tensor's name in a GGUF file, `blk.3.ffn_down_exps.weight`: the importances of all its matrices, one after another.
    private var tensors: [String: [Float]] = [:]

    private static let sizeLimit = 1 << 30

    /// Whether a file is one of llama.cpp's, not of `recast calibrate`.
    package static func recognises(_ path: String) throws -> Bool {
        let start = try PositionedFile.openForReading(path).read(64, at: 0)
        if GGUF.recognises(start) { return true }
        // A number of entries, and the length of the first one's name.
        guard start.count >= 12, !Safetensors.recognises(start) else { return false }
        let (entries, length) = (start.word(at: 0), start.word(at: 4))
        return entries > 0 && entries < 1 << 20 && length > 0 && length < 256
            && start.dropFirst(8).prefix(4).allSatisfy { (0x20..<0x7F).contains($0) }
    }

    package init(reading path: String) throws {
        let file = try PositionedFile.openForReading(path)
        let size = try file.size()
        guard size <= Self.sizeLimit else { throw StatisticsFailure(path: path, reason: "is larger than an importance matrix can be") }
        if GGUF.recognises(try file.read(4, at: 0)) {
            try readGGUF(GGUF.open(file), path)
        } else {
            try readRecords(file.read(size, at: 0), path)
        }
        guard !tensors.isEmpty else { throw StatisticsFailure(path: path, reason: "holds no importances") }
    }

    private mutating func readGGUF(_ file: TensorFile, _ path: String) throws {
        let byName = Dictionary(file.tensors.map { ($0.name, $0) }) { first, _ in first }
        func floats(_ tensor: StoredTensor) throws -> [Float] {
            guard tensor.type == .f32 else { throw StatisticsFailure(path: path, reason: "\(tensor.name) is \(tensor.summary), expected F32") }
            return try Self.floats(file.bytes.read(tensor.byteCount, at: tensor.offset)[...], path, tensor.name)
        }
        for tensor in file.tensors where tensor.name.hasSuffix(".in_sum2") {
            let name = String(tensor.name.dropLast(".in_sum2".count))
            guard let count = byName[name + ".counts"] else { throw StatisticsFailure(path: path, reason: "\(name) has sums and no counts") }
            let (sums, counts) = (try floats(tensor), try floats(count))
            guard !counts.isEmpty, sums.count % counts.count == 0 else {
                throw StatisticsFailure(path: path, reason: "\(name) has \(sums.count) sums for \(counts.count) counts")
            }
            let columns = sums.count / counts.count
            tensors[name] = sums.enumerated().map { index, sum in
                let count = counts[index / max(1, columns)].rounded()
                // What no token reached counts all alike.
                return count > 0 ? sum / count : 1
            }
        }
    }

    private mutating func readRecords(_ bytes: [UInt8], _ path: String) throws {
        func damaged() -> StatisticsFailure { StatisticsFailure(path: path, reason: "is no importance matrix of llama.cpp, or ends too early") }
        var offset = 0
        func word() throws -> Int {
            guard offset + 4 <= bytes.count else { throw damaged() }
            defer { offset += 4 }
            return Int(Int32(bitPattern: bytes.word(at: offset)))
        }
        for _ in 0..<(try word()) {
            let length = try word()
            guard length > 0, length <= bytes.count - offset, let name = String(validating: bytes[offset..<offset + length], as: UTF8.self) else {
                throw damaged()
            }
            offset += length
            let (calls, count) = (try word(), try word())
            guard calls >= 0, count > 0, count <= (bytes.count - offset) / 4 else { throw damaged() }
            let sums = try Self.floats(bytes[offset..<offset + 4 * count], path, name)
            offset += 4 * count
            tensors[name] = calls > 0 ? sums.map { $0 / Float(calls) } : [Float](repeating: 1, count: count)
        }
    }

    private static func floats(_ bytes: ArraySlice<UInt8>, _ path: String, _ name: String) throws -> [Float] {
        let values = bytes.withUnsafeBytes { raw in
            (0..<raw.count / 4).map { Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))) }
        }
        guard values.allSatisfy({ $0 >= 0 && $0.isFinite }) else {
            throw StatisticsFailure(path: path, reason: "\(name) holds values that are negative, infinite or NaN")
        }
        return values
    }

    /// The importances of one matrix; nil if there are none, or of other widths.
    package func importance(of tensor: String, matrix: Int, columns: Int) -> [Float]? {
        guard let all = tensors[tensor], columns > 0, matrix >= 0, all.count % columns == 0, matrix < all.count / columns else { return nil }
        let values = Array(all[matrix * columns..<(matrix + 1) * columns])
        return values.contains { $0 > 0 } ? values : nil
    }

    /// The importances of a weight under its canonical name; nil as above, or where llama.cpp has no tensor for it.
    package func importance(ofModule module: String, roles: ModelRoles, columns: Int) -> [Float]? {
        LlamaCpp.place(of: module, roles: roles).flatMap { importance(of: $0.name + ".weight", matrix: $0.matrix, columns: columns) }
    }

    /// SHA-256 goes over this text: what decides about bytes.
    package var identity: String {
        tensors.sorted { $0.key < $1.key }.map { name, values in "\(name) " + values.map { String($0.bitPattern, radix: 16) }.joined(separator: " ") }
            .joined(separator: "\n")
    }

    // MARK: Writing

    /// Writes statistics in the form that llama-quantize takes.
    /// - Parameters:
    ///   - tokens: that were run, as one chunk.
    ///   - dataset: what they are called.
    package static func write(_ statistics: InputStatistics, roles: ModelRoles, tokens: Int, dataset: String, to path: String) throws {
        var matrices: [String: [Int: InputStatistics.Entry]] = [:]
        for (module, entry) in statistics.entries {
            guard let place = LlamaCpp.place(of: module, roles: roles) else { continue }
            matrices[place.name + ".weight", default: [:]][place.matrix] = entry
        }
        guard !matrices.isEmpty else {
            throw StatisticsFailure(path: path, reason: "cannot be written: llama.cpp's names of this architecture are not known here")
        }
        var tensors: [(declaration: TensorDeclaration, bytes: [UInt8])] = []
        for (name, entries) in matrices.sorted(by: { $0.key < $1.key }) {
            let count = (entries.keys.max() ?? 0) + 1
            let columns = entries.values.first?.meanSquares.count ?? 0
            let rows = (0..<count).map { entries[$0] ?? .init(meanSquares: [Float](repeating: 0, count: columns), meanMagnitudes: [], count: 0) }
            let sums = rows.flatMap { entry in entry.meanSquares.map { $0 * Float(entry.count) } }
            tensors.append((TensorDeclaration(name: name + ".in_sum2", type: .f32, shape: [count, columns]), [UInt8](bytesOf: sums)))
            tensors.append(
                (TensorDeclaration(name: name + ".counts", type: .f32, shape: [count, 1]), [UInt8](bytesOf: rows.map { Float($0.count) })))
        }
        let entries = [
            GGUFEntry("general.type", .string("imatrix")), GGUFEntry("imatrix.datasets", .array(.strings([dataset]))),
            GGUFEntry("imatrix.chunk_count", .u32(1)), GGUFEntry("imatrix.chunk_size", .u32(UInt32(clamping: tokens))),
        ]
        guard GGUF.obstacle(to: tensors.map(\.declaration)) == nil,
            let places = GGUF.arrange(tensors.map(\.declaration), metadata: FileMetadata(entries: entries))
        else { throw StatisticsFailure(path: path, reason: "would be too large") }
        try FileTree.write(to: path) { file in
            try file.resize(to: places.size)
            for piece in places.pieces { try file.write(piece.bytes, at: piece.offset) }
            for (tensor, offset) in zip(tensors, places.offsets) { try file.write(tensor.bytes, at: offset) }
        }
    }
}
