import StrictJSON
import Tensors

/// The header of a safetensors file, validated: at least as strictly as the Rust crate's `SafeTensors::read_metadata`
/// (huggingface/safetensors:safetensors/src/tensor.rs).
package struct SafetensorsHeader: Sendable {
    /// Longest header that any reader accepts.
    package static let lengthLimit = 100_000_000

    /// In the order of their bytes; offsets are absolute in the file.
    package var tensors: [StoredTensor]
    package var metadata: [(key: String, value: String)]
    /// Where the data begins: 8 + header length.
    package var dataOffset: Int

    /// Parses and checks the header of `file`. `index` becomes ``StoredTensor/file``.
    package init(reading file: any ByteSource, index: Int = 0) throws {
        let size = try file.size()
        let start = try file.read(min(size, 64), at: 0)
        if let disguise = Disguise(start) { throw SafetensorsFailure(file.path, disguise.fault) }
        guard start.count >= 8 else { throw SafetensorsFailure(file.path, .tooShort(size: size)) }
        let length = (0..<8).reduce(UInt64(0)) { $0 | UInt64(start[$1]) << UInt64(8 * $1) }
        guard length <= Self.lengthLimit else { throw SafetensorsFailure(file.path, .headerTooLong(length: length)) }
        guard Int(length) + 8 <= size else { throw SafetensorsFailure(file.path, .headerBeyondEnd(length: Int(length), size: size)) }
        let text = try file.read(Int(length), at: 8)
        do {
            self = try Self(parsing: text, fileSize: size, index: index)
        } catch let fault as Fault {
            throw SafetensorsFailure(file.path, fault.fault)
        }
    }

    /// The header at the beginning of a file of `fileSize` bytes, given as ``layout(_:metadata:)`` made it.
    package init(_ header: [UInt8], fileSize: Int) throws {
        do {
            try self.init(parsing: Array(header.dropFirst(8)), fileSize: fileSize, index: 0)
        } catch let fault as Fault {
            throw SafetensorsFailure("a planned file", fault.fault)
        }
    }

    /// A fault on its way to the place that knows the path.
    struct Fault: Error {
        var fault: SafetensorsFailure.Fault
        init(_ fault: SafetensorsFailure.Fault) { self.fault = fault }
    }

    init(parsing text: [UInt8], fileSize: Int, index: Int) throws {
        dataOffset = 8 + text.count
        tensors = []
        metadata = []
        do {
            var scanner = JSONScanner(text)
            guard text.first == UInt8(ascii: "{") else { throw scanner.error("the header must begin with '{'") }
            try parse(&scanner, index: index)
            // Only spaces may pad a header.
            guard text[scanner.offset...].allSatisfy({ $0 == 0x20 }) else { throw scanner.error("text after the header's end") }
        } catch let error as JSONError {
            throw Fault(.json(error))
        }
        try checkCoverage(fileSize: fileSize)
    }

    private mutating func parse(_ scanner: inout JSONScanner, index: Int) throws {
        var names = Set<String>()
        try scanner.beginObject()
        while let name = try scanner.nextKey() {
            guard names.insert(name).inserted else { throw Fault(.duplicate(tensor: name)) }
            if name == "__metadata__" {
                guard scanner.peek() == UInt8(ascii: "{") else { throw Fault(.badMetadata) }
                try scanner.beginObject()
                while let key = try scanner.nextKey() {
                    guard scanner.peek() == UInt8(ascii: "\"") else { throw Fault(.badMetadata) }
                    metadata.append((key, try scanner.string()))
                }
            } else {
                tensors.append(try Self.entry(name, &scanner, dataOffset: dataOffset, index: index))
            }
        }
    }

    private static func entry(_ name: String, _ scanner: inout JSONScanner, dataOffset: Int, index: Int) throws -> StoredTensor {
        var typeName: String?
        var shape: [Int]?
        var range: [Int]?
        func integers(_ scanner: inout JSONScanner) throws -> [Int] {
            var numbers: [Int] = []
            try scanner.beginArray()
            while try scanner.nextElement() { numbers.append(try scanner.count()) }
            return numbers
        }
        try scanner.beginObject()
        while let key = try scanner.nextKey() {
            switch key {
            case "dtype" where typeName == nil: typeName = try scanner.string()
            case "shape" where shape == nil: shape = try integers(&scanner)
            case "data_offsets" where range == nil: range = try integers(&scanner)
            default: throw Fault(.badEntry(tensor: name, reason: "unexpected or repeated field \"\(key)\""))
            }
        }
        guard let typeName, let shape, let range else {
            throw Fault(.badEntry(tensor: name, reason: "dtype, shape and data_offsets are all required"))
        }
        guard let type = ScalarType(rawValue: typeName), type.block == nil else { throw Fault(.unknownType(tensor: name, type: typeName)) }
        guard range.count == 2, range[0] <= range[1] else {
            throw Fault(.badEntry(tensor: name, reason: "data_offsets must be two offsets, the first not above the second"))
        }
        guard let expected = Shape.byteCount(shape, type) else { throw Fault(.tooManyElements(tensor: name)) }
        guard range[1] - range[0] == expected else {
            throw Fault(.sizeMismatch(tensor: name, stored: range[1] - range[0], expected: expected))
        }
        let (offset, over) = range[0].addingReportingOverflow(dataOffset)
        guard !over else { throw Fault(.badEntry(tensor: name, reason: "data_offsets are too large")) }
        return StoredTensor(name: name, type: type, shape: shape, file: index, offset: offset, byteCount: expected)
    }

    /// The tensors must cover the rest of the file exactly once.
    private mutating func checkCoverage(fileSize: Int) throws(Fault) {
        tensors.sort { ($0.offset, $0.byteCount, $0.name) < ($1.offset, $1.byteCount, $1.name) }
        var end = dataOffset
        for tensor in tensors {
            if tensor.offset > end { throw Fault(.hole(tensor: tensor.name, at: tensor.offset - dataOffset, expected: end - dataOffset)) }
            if tensor.offset < end { throw Fault(.overlap(tensor: tensor.name, at: tensor.offset - dataOffset, expected: end - dataOffset)) }
            let (next, over) = end.addingReportingOverflow(tensor.byteCount)
            guard !over else { throw Fault(.tooManyElements(tensor: tensor.name)) }
            end = next
        }
        if fileSize < end { throw Fault(.truncated(expected: end, size: fileSize)) }
        if fileSize > end { throw Fault(.trailingBytes(expected: end, size: fileSize)) }
    }
}
