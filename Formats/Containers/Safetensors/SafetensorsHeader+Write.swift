import StrictJSON
import Tensors

extension SafetensorsHeader {
    /// The complete start of a file and the place of each tensor, in the order of `declarations`.
    ///
    /// Data are stored as the Python writer stores them, wide types first and then by name, so that every tensor is aligned
    /// to its own size; the header is padded with spaces to a multiple of 8 bytes. The same declarations give the same bytes.
    /// - Returns: nil if a size leaves Int.
    package static func layout(
        _ declarations: [TensorDeclaration], metadata: [(key: String, value: String)]
    ) -> (header: [UInt8], offsets: [Int], size: Int)? {
        let order = storageOrder(declarations)
        var offsets = [Int](repeating: 0, count: declarations.count)
        var text = "{"
        if !metadata.isEmpty {
            text += "\"__metadata__\":"
            var object = JSONObject()
            for (key, value) in metadata { object[key] = .string(value) }
            text += JSONValue.object(object).text(pretty: false)
        }
        var end = 0
        for index in order {
            let tensor = declarations[index]
            guard let size = Shape.byteCount(tensor.shape, tensor.type) else { return nil }
            let (next, over) = end.addingReportingOverflow(size)
            guard !over else { return nil }
            if text.utf8.count > 1 { text += "," }
            JSONValue.quote(tensor.name, into: &text)
            text += ":{\"dtype\":\"\(tensor.type.rawValue)\",\"shape\":[\(tensor.shape.map(String.init).joined(separator: ","))]"
            text += ",\"data_offsets\":[\(end),\(next)]}"
            offsets[index] = end
            end = next
        }
        text += "}"
        text += String(repeating: " ", count: (8 - text.utf8.count % 8) % 8)
        let length = UInt64(text.utf8.count)
        let header = (0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * UInt64($0))) } + Array(text.utf8)
        return (header, offsets.map { $0 + header.count }, end + header.count)
    }

    /// The order in which the tensors lie: wide types first, then by name.
    static func storageOrder(_ declarations: [TensorDeclaration]) -> [Int] {
        declarations.indices.sorted { a, b in
            let (x, y) = (declarations[a], declarations[b])
            return x.type.bitWidth != y.type.bitWidth ? x.type.bitWidth > y.type.bitWidth : x.name.isBefore(y.name)
        }
    }

    /// Writes a file of tensors that are at hand: it appears complete or not at all.
    /// - Parameter tensors: Declarations, each with its values in order; a value must have the size of its declared type.
    /// - Returns: false, and nothing is written, if a size leaves Int.
    package static func write(
        _ tensors: [(declaration: TensorDeclaration, bytes: [UInt8])], metadata: [(key: String, value: String)], to path: String
    ) throws -> Bool {
        guard let place = layout(tensors.map(\.declaration), metadata: metadata) else { return false }
        try FileTree.write(to: path) { file in
            try file.resize(to: place.size)
            try file.write(place.header, at: 0)
            for (offset, tensor) in zip(place.offsets, tensors) {
                precondition(tensor.bytes.count == Shape.byteCount(tensor.declaration.shape, tensor.declaration.type))
                try file.write(tensor.bytes, at: offset)
            }
        }
        return true
    }
}

extension [UInt8] {
    /// The bytes of some values, one after another.
    package init<Value: BitwiseCopyable>(bytesOf values: [Value]) { self = values.withUnsafeBytes { Array($0) } }
}
