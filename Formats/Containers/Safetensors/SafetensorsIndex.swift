import StrictJSON
import Tensors

/// `model.safetensors.index.json`: which file holds which tensor.
package struct SafetensorsIndex: Sendable {
    package static let fileName = "model.safetensors.index.json"
    /// Longest index that is read. DeepSeek-V3's has 9 MB.
    package static let sizeLimit = 512 << 20

    /// File names in the order of their first mention.
    package var files: [String] = []
    /// Tensor name to position in ``files``.
    package var fileOfTensor: [String: Int] = [:]

    /// Reads an index. Unknown members are skipped; a file name must be a plain name beside the index.
    package init(reading path: String) throws { try self.init(FileTree.read(path, limit: Self.sizeLimit), path: path) }

    /// - Parameter path: the name for messages.
    package init(_ bytes: [UInt8], path: String) throws {
        if bytes.starts(with: "version https://git-lfs".utf8) { throw SafetensorsFailure(path, .gitLFSPointer) }
        do {
            try parse(bytes, path: path)
        } catch let error as JSONError {
            throw SafetensorsFailure(path, .json(error))
        }
    }

    private mutating func parse(_ bytes: [UInt8], path: String) throws {
        var scanner = JSONScanner(bytes)
        var places: [String: Int] = [:]
        var found = false
        try scanner.beginObject()
        while let key = try scanner.nextKey() {
            guard key == "weight_map", !found else {
                _ = try JSONValue(scanning: &scanner)
                continue
            }
            found = true
            try scanner.beginObject()
            while let tensor = try scanner.nextKey() {
                let file = try scanner.string()
                guard Self.isPlainName(file) else { throw SafetensorsFailure(path, .indexPath(file: file)) }
                let place = places[file] ?? files.count
                if place == files.count {
                    places[file] = place
                    files.append(file)
                }
                guard fileOfTensor.updateValue(place, forKey: tensor) == nil else { throw SafetensorsFailure(path, .duplicate(tensor: tensor)) }
            }
        }
        try scanner.finish()
        guard found else { throw SafetensorsFailure(path, .indexWithoutMap) }
    }

    /// Whether this names a file beside others, not one elsewhere.
    package static func isPlainName(_ name: String) -> Bool {
        !name.isEmpty && name != "." && name != ".." && !name.utf8.contains { $0 == UInt8(ascii: "/") || $0 == 0 || $0 == UInt8(ascii: "\\") }
    }

    /// The text of an index over `weightMap` (tensor, file), sorted by tensor name, as huggingface_hub writes it.
    package static func text(weightMap: [(tensor: String, file: String)], totalSize: Int) -> [UInt8] {
        var text = "{\n  \"metadata\": {\n    \"total_size\": \(totalSize)\n  },\n  \"weight_map\": {"
        let sorted = weightMap.sorted { $0.tensor.isBefore($1.tensor) }
        for (index, entry) in sorted.enumerated() {
            text += index == 0 ? "\n    " : ",\n    "
            JSONValue.quote(entry.tensor, into: &text)
            text += ": "
            JSONValue.quote(entry.file, into: &text)
        }
        text += sorted.isEmpty ? "}\n}\n" : "\n  }\n}\n"
        return Array(text.utf8)
    }
}
