import Formats
import Runtime
import Tensors

/// What `recast calibrate` keeps about the inputs of every weight.
///
/// A safetensors file with `MODULE.mean_square` and `MODULE.mean_abs`, F32 [columns], and `MODULE.count`, I64 [1], how many tokens reached the
/// weight. Its metadata say `recast.statistics: 1`.
package struct InputStatistics: Sendable {
    package static let metadataKey = "recast.statistics"

    package struct Entry: Sendable, Equatable {
        package var meanSquares: [Float]
        package var meanMagnitudes: [Float]
        package var count: Int

        package init(meanSquares: [Float], meanMagnitudes: [Float], count: Int) {
            self.meanSquares = meanSquares
            self.meanMagnitudes = meanMagnitudes
            self.count = count
        }

        package init(_ moments: InputMoments) {
            let count = Double(max(1, moments.count))
            self.init(
                meanSquares: moments.squares.map { Float($0 / count) }, meanMagnitudes: moments.magnitudes.map { Float($0 / count) },
                count: moments.count)
        }
    }

    /// By module: `model.layers.3.mlp.experts.7.up_proj`.
    package private(set) var entries: [String: Entry] = [:]
    /// Instead of ``entries``, where llama.cpp collected them.
    package private(set) var matrix: ImportanceMatrix?

    package init() {}

    package mutating func add(_ module: String, _ entry: Entry) { entries[module] = entry }

    /// The importance of the columns of a weight; nil where no token was seen.
    package func importance(of module: String, columns: Int) -> [Float]? {
        guard let entry = entries[module], entry.count > 0, entry.meanSquares.count == columns else { return nil }
        // A column that never had an input may yet get one: it counts a little.
        let mean = entry.meanSquares.reduce(0, +) / Float(max(1, columns))
        guard mean > 0 else { return nil }
        return entry.meanSquares.map { max($0, mean * 1e-4) }
    }

    /// Reads a file that ``write(to:)`` made, or an importance matrix of llama.cpp. Entries are checked one by one.
    package init(reading path: String) throws {
        if try ImportanceMatrix.recognises(path) {
            matrix = try ImportanceMatrix(reading: path)
            return
        }
        let file = try PositionedFile.openForReading(path)
        let header = try SafetensorsHeader(reading: file)
        func failure(_ reason: String) -> StatisticsFailure { StatisticsFailure(path: path, reason: reason) }
        guard header.metadata.contains(where: { $0.key == Self.metadataKey }) else { throw failure("is no file of `recast calibrate`") }
        var tensors: [String: StoredTensor] = [:]
        for tensor in header.tensors { tensors[tensor.name] = tensor }
        func floats(_ name: String) throws -> [Float] {
            guard let tensor = tensors[name], tensor.type == .f32, tensor.shape.count == 1 else { throw failure("has no usable \(name)") }
            let bytes = try file.read(tensor.byteCount, at: tensor.offset)
            let values = bytes.withUnsafeBytes { raw in
                (0..<bytes.count / 4).map { Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))) }
            }
            guard values.count == tensor.shape[0], values.allSatisfy({ $0 >= 0 && $0.isFinite }) else {
                throw failure("\(name) holds values that are negative, infinite or NaN")
            }
            return values
        }
        for tensor in header.tensors where tensor.name.hasSuffix(".count") {
            let module = String(tensor.name.dropLast(".count".count))
            guard tensor.type == .i64, tensor.shape == [1] else { throw failure("\(tensor.name) is \(tensor.summary), expected I64 [1]") }
            let bytes = try file.read(8, at: tensor.offset)
            let count = bytes.withUnsafeBytes { Int64(littleEndian: $0.loadUnaligned(as: Int64.self)) }
            guard count >= 0 else { throw failure("\(tensor.name) is negative") }
            let entry = Entry(
                meanSquares: try floats(module + ".mean_square"), meanMagnitudes: try floats(module + ".mean_abs"), count: Int(count))
            guard entry.meanSquares.count == entry.meanMagnitudes.count else { throw failure("the vectors of \(module) differ in length") }
            entries[module] = entry
        }
        guard !entries.isEmpty else { throw failure("holds no statistics") }
    }

    /// Writes the file, whole or not at all.
    package func write(to path: String) throws {
        var tensors: [(declaration: TensorDeclaration, bytes: [UInt8])] = []
        for (module, entry) in entries.sorted(by: { $0.key < $1.key }) {
            let columns = [entry.meanSquares.count]
            tensors += [
                (.init(name: module + ".mean_square", type: .f32, shape: columns), Array(bytesOf: entry.meanSquares)),
                (.init(name: module + ".mean_abs", type: .f32, shape: columns), Array(bytesOf: entry.meanMagnitudes)),
                (.init(name: module + ".count", type: .i64, shape: [1]), Array(bytesOf: [Int64(entry.count)])),
            ]
        }
        guard try SafetensorsHeader.write(tensors, metadata: [(Self.metadataKey, "1")], to: path) else {
            throw StatisticsFailure(path: path, reason: "would be too large")
        }
    }
}

/// A file of statistics that cannot be used.
package struct StatisticsFailure: Failure, Equatable {
    package var path: String
    package var reason: String

    package var kind: FailureKind { .badData }
    package var description: String { "\(path): \(reason); make it with `recast calibrate`" }
}
