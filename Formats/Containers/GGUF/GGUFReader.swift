import Tensors

/// Reads the head of a GGUF file, at least as strictly as `gguf_init_from_file`: nothing in it leads outside of the file, onto other tensors, or
/// into more memory than the file has bytes.
struct GGUFReader {
    private let file: any SourceFile
    private let size: Int
    /// A window of the file, so that a head of many small fields takes few reads.
    private var window: [UInt8] = []
    private var windowStart = 0
    private var offset = 0
    private var version: UInt32 = 0

    private static let windowSize = 1 << 20
    static let keyLimit = 65_535
    static let countLimit = 1 << 24

    init(_ file: any SourceFile) throws {
        self.file = file
        size = try file.size()
    }

    private func failure(_ reason: String) -> ContainerFailure {
        ContainerFailure(file.path, "not a GGUF file to trust: \(reason); get it again from its source")
    }

    mutating func read() throws -> TensorFile {
        guard try take(4) == GGUF.magic else { throw failure("it does not begin with \"GGUF\"") }
        version = try word()
        guard version & 0xFFFF != 0 else { throw failure("its numbers have their high bytes first, and only the other order is read here") }
        guard version == 2 || version == 3 else { throw failure("it is of version \(version), and versions 2 and 3 are read here") }
        let tensorCount = try count("tensors"), entryCount = try count("keys")
        let metadata = try entries(entryCount)
        var alignment = GGUF.defaultAlignment
        if let value = metadata["general.alignment"] {
            guard case .u32(let given) = value, given > 0, given & (given - 1) == 0, given <= 1 << 20 else {
                throw failure("general.alignment must be a power of two")
            }
            alignment = Int(given)
        }
        var tensors: [StoredTensor] = []
        var names = Set<String>()
        var end = 0
        for _ in 0..<tensorCount {
            var tensor = try info()
            guard names.insert(tensor.name).inserted else { throw failure("it has two tensors called \(tensor.name)") }
            guard tensor.offset == end else {
                throw failure(
                    "tensor \(tensor.name) begins at byte \(tensor.offset) of the data where \(end) is next; tensors leave no gaps and do not overlap"
                )
            }
            let (next, over) = tensor.byteCount.addingReportingOverflow(alignment - 1)
            guard !over, case let (sum, overSum) = end.addingReportingOverflow(next / alignment * alignment), !overSum else {
                throw failure("tensor \(tensor.name) is larger than a file can be")
            }
            tensor.offset = end
            end = sum
            tensors.append(tensor)
        }
        let start = tensors.isEmpty ? offset : ceilingDivide(offset, alignment) * alignment
        for index in tensors.indices {
            tensors[index].offset += start
            let tensor = tensors[index]
            guard tensor.offset <= size, tensor.byteCount <= size - tensor.offset else {
                throw failure(
                    "tensor \(tensor.name) needs \(tensor.byteCount) bytes from byte \(tensor.offset) on, and the file has \(size); it is truncated")
            }
        }
        if let last = tensors.last {
            // A head that counts too few tensors has others where zeros should be, and its data begin too early.
            guard try file.read(start - offset, at: offset).allSatisfy({ $0 == 0 }) else {
                throw failure("between its head and its data, at byte \(offset), are no zeros; the head counts too few tensors")
            }
            let whole = last.offset - start + last.byteCount
            guard size - start <= ceilingDivide(whole, alignment) * alignment else {
                throw failure("its last tensor ends at byte \(start + whole), and the file has \(size)")
            }
        }
        var opened = TensorFile(tensors: tensors, bytes: file)
        opened.entries = metadata
        return opened
    }

    private mutating func entries(_ count: Int) throws -> [GGUFEntry] {
        var found: [GGUFEntry] = []
        var keys = Set<String>()
        for _ in 0..<count {
            let key = try string(limit: Self.keyLimit)
            guard !key.isEmpty, keys.insert(key).inserted else { throw failure("the key \"\(key)\" is empty or comes twice") }
            found.append(GGUFEntry(key, try value(key, try word())))
        }
        return found
    }

    private mutating func value(_ key: String, _ code: UInt32) throws -> GGUFValue {
        switch code {
        case 0: return .u8(try take(1)[0])
        case 1: return .i8(Int8(bitPattern: try take(1)[0]))
        case 2: return .u16(UInt16(try take(2).half(at: 0)))
        case 3: return .i16(Int16(bitPattern: UInt16(try take(2).half(at: 0))))
        case 4: return .u32(try word())
        case 5: return .i32(Int32(bitPattern: try word()))
        case 6: return .f32(Float(bitPattern: try word()))
        case 7:
            let byte = try take(1)[0]
            guard byte <= 1 else { throw failure("\(key) is the truth value \(byte)") }
            return .bool(byte == 1)
        case 8: return .string(try string(limit: size))
        case 9: return .array(try array(key))
        case 10: return .u64(try long())
        case 11: return .i64(Int64(bitPattern: try long()))
        case 12: return .f64(Double(bitPattern: try long()))
        default: throw failure("\(key) is of the type \(code), which GGUF does not have")
        }
    }

    private mutating func array(_ key: String) throws -> GGUFArray {
        let code = try word()
        let count = try long()
        // A string takes at least the eight bytes of its length.
        let width = code == 8 ? 8 : GGUFArray.width(code)
        guard let width else { throw failure("\(key) is an array of the type \(code), which arrays do not hold") }
        guard count <= UInt64((size - offset) / width) else { throw failure("\(key) promises \(count) elements, more than the file has bytes for") }
        guard code == 8 else { return .numbers(code: code, bytes: try take(Int(count) * width)) }
        var texts: [String] = []
        texts.reserveCapacity(Int(count))
        for _ in 0..<count { texts.append(try string(limit: size)) }
        return .strings(texts)
    }

    private mutating func info() throws -> StoredTensor {
        let name = try string(limit: GGUF.nameLimit)
        guard !name.isEmpty, !name.utf8.contains(0) else { throw failure("a tensor has no name, or one that other readers cut") }
        let rank = try word()
        guard rank <= UInt32(GGUF.maximumRank) else { throw failure("tensor \(name) has \(rank) dimensions") }
        var shape: [Int] = []
        for _ in 0..<rank {
            guard let size = Int(exactly: try long()) else { throw failure("tensor \(name) has a dimension beyond all sizes") }
            shape.insert(size, at: 0)
        }
        let code = try word()
        guard let type = GGUFType.type(code) else { throw failure("tensor \(name) is of ggml's type \(code), which is not read here") }
        guard let byteCount = Shape.byteCount(shape, type), let place = Int(exactly: try long()) else {
            throw failure("tensor \(name) of the shape \(shape) cannot be stored as \(type.rawValue)")
        }
        return StoredTensor(name: name, type: type, shape: shape, offset: place, byteCount: byteCount)
    }

    // MARK: Bytes

    private mutating func take(_ count: Int) throws -> [UInt8] {
        guard count <= size - offset else { throw failure("its head ends at byte \(size) in the middle of a field") }
        if offset < windowStart || offset + count > windowStart + window.count {
            windowStart = offset
            window = try file.read(min(max(count, Self.windowSize), size - offset), at: offset)
            guard window.count >= count else { throw failure("its head ends in the middle of a field") }
        }
        defer { offset += count }
        return Array(window[(offset - windowStart)..<(offset - windowStart + count)])
    }

    private mutating func word() throws -> UInt32 { try take(4).word(at: 0) }

    private mutating func long() throws -> UInt64 { try take(8).long(at: 0) }

    private mutating func count(_ what: String) throws -> Int {
        let count = try long()
        guard count <= UInt64(Self.countLimit) else { throw failure("it promises \(count) \(what)") }
        return Int(count)
    }

    private mutating func string(limit: Int) throws -> String {
        let length = try long()
        guard length <= UInt64(limit), length <= UInt64(size - offset) else {
            throw failure("at byte \(offset - 8) a text of \(length) bytes is promised, and at most \(min(limit, size - offset)) are possible")
        }
        let bytes = try take(Int(length))
        guard let text = String(validating: bytes, as: UTF8.self) else { throw failure("the text at byte \(offset - Int(length)) is no UTF-8") }
        return text
    }
}
