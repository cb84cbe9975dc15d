import Recast

/// A safetensors file made of a header's text, so that a mutated shape or type still has a file that fits it: offsets are worked out, and the
/// data are a pattern, or what a member `"data": [1, 0]` gives and then zeros. Text that is no such header is taken as it is.
enum FuzzTensorFile {
    /// Larger tensors keep the offsets that the text gives, so that files stay small.
    static let dataLimit = 1 << 18

    static func bytes(header text: [UInt8], pattern: [UInt8] = []) -> [UInt8] {
        guard var header = (try? JSONValue(parsing: text))?.object else { return framed(text, data: []) }
        var data: [UInt8] = []
        for (name, value) in header.members where name != "__metadata__" {
            guard var tensor = value.object, let type = tensor["dtype"]?.string.flatMap(ScalarType.init(rawValue:)),
                let shape = tensor["shape"]?.array?.compactMap(\.int), let count = Shape.byteCount(shape, type), count <= dataLimit - data.count
            else { continue }
            let given = tensor["data"]?.array?.prefix(count).map { UInt8(truncatingIfNeeded: $0.int ?? 0) }
            tensor["data"] = nil
            let end = data.count + count
            tensor["data_offsets"] = .array([.int(data.count), .int(end)])
            header[name] = .object(tensor)
            data += given ?? (0..<count).map { pattern.isEmpty ? 0 : pattern[$0 % pattern.count] }
            data += [UInt8](repeating: 0, count: end - data.count)
        }
        return framed(Array(JSONValue.object(header).text(pretty: false).utf8), data: data)
    }

    private static func framed(_ text: [UInt8], data: [UInt8]) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text + data
    }
}

extension TensorFile {
    /// Reads some bytes of every tensor: its beginning, its end, and a piece that begins and ends anywhere.
    func readSome() throws {
        for tensor in tensors {
            let count = tensor.byteCount
            for range in [0..<min(count, 1 << 16), max(0, count - 100)..<count, count / 3..<count / 2] where range.count <= 1 << 16 {
                _ = try bytes.read(range.count, at: tensor.offset + range.lowerBound)
            }
        }
        for file in attachments where file.byteCount <= 1 << 16 { _ = try bytes.read(file.byteCount, at: file.offset) }
    }
}
