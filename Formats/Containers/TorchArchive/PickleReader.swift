/// Reads the subset of Python's pickle protocols 2 to 5 that state dictionaries are made of (python/cpython:Lib/pickletools.py), and
/// runs nothing: calls are known constructors only, objects have no attributes, and any other opcode or name ends the reading.
struct PickleReader {
    /// The longest pickle that is read. DeepSeek-V3's 91,991 tensors take about 20 MB.
    static let sizeLimit = 512 << 20
    /// Values that may wait on the stack; a state dictionary of a million tensors needs two million.
    static let stackLimit = 16 << 20

    /// No tuple of a state dictionary nests deeper.
    static let tupleDepthLimit = 32

    private let bytes: [UInt8]
    private let heap = PickleHeap()
    private var at = 0
    private var stack: [PickleValue] = []
    /// Stack heights at the open marks.
    private var marks: [Int] = []
    private var memo: [Int: PickleValue] = [:]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func read() throws(PickleFault) -> PickleDocument {
        while true {
            let start = at
            let opcode = try byte()
            guard stack.count <= Self.stackLimit, marks.count <= Self.stackLimit else { throw fault("it stacks more values than a checkpoint needs") }
            if opcode == UInt8(ascii: ".") {
                guard stack.count == 1, marks.isEmpty else { throw fault("it ends with \(stack.count) values instead of one") }
                return PickleDocument(root: stack[0], heap: heap)
            }
            try step(opcode, start)
        }
    }

    private func fault(_ reason: String, at offset: Int? = nil) -> PickleFault { PickleFault(offset: offset ?? at, reason: reason) }

    private mutating func step(_ opcode: UInt8, _ start: Int) throws(PickleFault) {
        switch opcode {
        case 0x80:
            let version = try byte()
            guard (2...5).contains(version) else { throw fault("it is of protocol \(version), not 2 to 5", at: start) }
        case 0x95: _ = try number(8)
        case UInt8(ascii: "("): marks.append(stack.count)
        case UInt8(ascii: "0"): _ = try pop()
        case UInt8(ascii: "1"): _ = try popToMark()
        case UInt8(ascii: "N"): stack.append(.none)
        case 0x88: stack.append(.bool(true))
        case 0x89: stack.append(.bool(false))
        case UInt8(ascii: "J"): stack.append(.integer(Int(Int32(truncatingIfNeeded: try number(4)))))
        case UInt8(ascii: "K"): stack.append(.integer(try number(1)))
        case UInt8(ascii: "M"): stack.append(.integer(try number(2)))
        case 0x8A: stack.append(.integer(try long(try number(1))))
        case UInt8(ascii: "G"): stack.append(.real(Double(bitPattern: UInt64(bitPattern: Int64(try number(8))).byteSwapped)))
        case UInt8(ascii: "X"): stack.append(.string(try text(try number(4))))
        case 0x8C: stack.append(.string(try text(try number(1))))
        case 0x8D: stack.append(.string(try text(try number(8))))
        case UInt8(ascii: "T"), UInt8(ascii: "B"): stack.append(.string(try text(try number(4))))
        case UInt8(ascii: "U"), UInt8(ascii: "C"): stack.append(.string(try text(try number(1))))
        case UInt8(ascii: ")"): stack.append(.tuple(PickleTuple([])))
        case 0x85: try tuple([try pop()])
        case 0x86, 0x87:
            var items: [PickleValue] = []
            for _ in 0..<Int(opcode - 0x84) { items.insert(try pop(), at: 0) }
            try tuple(items)
        case UInt8(ascii: "t"): try tuple(try popToMark())
        case UInt8(ascii: "]"): stack.append(.list(newList()))
        case UInt8(ascii: "}"): stack.append(.dictionary(newDictionary()))
        case UInt8(ascii: "a"):
            let item = try pop()
            try list().items.append(item)
        case UInt8(ascii: "e"):
            let items = try popToMark()
            try list().items += items
        case UInt8(ascii: "s"):
            let value = try pop(), key = try pop()
            try dictionary().items.append((key, value))
        case UInt8(ascii: "u"):
            let items = try popToMark()
            guard items.count % 2 == 0 else { throw fault("a dictionary gets a key without a value", at: start) }
            let target = try dictionary()
            for index in stride(from: 0, to: items.count, by: 2) { target.items.append((items[index], items[index + 1])) }
        case UInt8(ascii: "q"): memo[try number(1)] = try top()
        case UInt8(ascii: "r"): memo[try number(4)] = try top()
        case 0x94: memo[memo.count] = try top()
        case UInt8(ascii: "h"): stack.append(try recall(try number(1)))
        case UInt8(ascii: "j"): stack.append(try recall(try number(4)))
        case UInt8(ascii: "c"):
            let module = try line(), name = try line()
            stack.append(try global(module, name, start))
        case 0x93:
            guard case .string(let name) = try pop(), case .string(let module) = try pop() else { throw fault("a name is no text", at: start) }
            stack.append(try global(module, name, start))
        case UInt8(ascii: "Q"): stack.append(.storage(try storage(try pop(), start)))
        case UInt8(ascii: "R"):
            let arguments = try pop(), function = try pop()
            stack.append(try call(function, arguments, start))
        case UInt8(ascii: "b"):
            // The state of an OrderedDict: torch keeps versions of modules there, which say nothing about bytes.
            _ = try pop()
            guard case .dictionary = try top() else { throw fault("it sets the state of something that is no dictionary", at: start) }
        default: throw fault("opcode 0x\(String(opcode, radix: 16)) does not occur in checkpoints of tensors", at: start)
        }
    }

    // MARK: Reading

    private mutating func byte() throws(PickleFault) -> UInt8 {
        guard at < bytes.count else { throw fault("it ends without its last opcode") }
        defer { at += 1 }
        return bytes[at]
    }

    /// A little-endian number of at most 8 bytes.
    private mutating func number(_ size: Int) throws(PickleFault) -> Int {
        guard bytes.count - at >= size else { throw fault("it ends inside a number") }
        defer { at += size }
        return Int(truncatingIfNeeded: (0..<size).reduce(UInt64(0)) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) })
    }

    /// A two's complement number of any size that fits Int.
    private mutating func long(_ size: Int) throws(PickleFault) -> Int {
        guard size <= 8 else { throw fault("it holds a number of \(size) bytes") }
        let value = try number(size)
        return size == 0 || size == 8 ? value : (value << (64 - 8 * size)) >> (64 - 8 * size)
    }

    private mutating func text(_ size: Int) throws(PickleFault) -> String {
        guard size >= 0, bytes.count - at >= size else { throw fault("it ends inside a text of \(size) bytes") }
        defer { at += size }
        return String(decoding: bytes[at..<(at + size)], as: UTF8.self)
    }

    private mutating func line() throws(PickleFault) -> String {
        guard let end = bytes[at...].firstIndex(of: UInt8(ascii: "\n")) else { throw fault("it ends inside a name") }
        defer { at = end + 1 }
        return String(decoding: bytes[at..<end], as: UTF8.self)
    }

    // MARK: Stack

    private mutating func tuple(_ items: [PickleValue]) throws(PickleFault) {
        let tuple = PickleTuple(items)
        guard tuple.depth <= Self.tupleDepthLimit else { throw fault("it nests tuples deeper than a checkpoint does") }
        stack.append(.tuple(tuple))
    }

    private func newList() -> PickleList {
        let list = PickleList()
        heap.lists.append(list)
        return list
    }

    private func newDictionary() -> PickleDictionary {
        let dictionary = PickleDictionary()
        heap.dictionaries.append(dictionary)
        return dictionary
    }

    private mutating func pop() throws(PickleFault) -> PickleValue {
        guard stack.count > (marks.last ?? 0), let value = stack.popLast() else { throw fault("it takes more values than it has") }
        return value
    }

    private func top() throws(PickleFault) -> PickleValue {
        guard stack.count > (marks.last ?? 0), let value = stack.last else { throw fault("it takes more values than it has") }
        return value
    }

    private mutating func popToMark() throws(PickleFault) -> [PickleValue] {
        guard let mark = marks.popLast() else { throw fault("it takes values up to a mark that it never set") }
        defer { stack.removeSubrange(mark...) }
        return Array(stack[mark...])
    }

    private func list() throws(PickleFault) -> PickleList {
        guard case .list(let list) = try top() else { throw fault("it appends to something that is no list") }
        return list
    }

    private func dictionary() throws(PickleFault) -> PickleDictionary {
        guard case .dictionary(let dictionary) = try top() else { throw fault("it puts a key into something that is no dictionary") }
        return dictionary
    }

    private func recall(_ key: Int) throws(PickleFault) -> PickleValue {
        guard let value = memo[key] else { throw fault("it recalls value \(key), which it never stored") }
        return value
    }

    // MARK: Objects

    private func global(_ module: String, _ name: String, _ start: Int) throws(PickleFault) -> PickleValue {
        guard let global = PickleGlobal(module: module, name: name) else {
            throw fault("it wants to use \(module).\(name), which no tensor needs; it was not executed", at: start)
        }
        return .global(global)
    }

    private func storage(_ id: PickleValue, _ start: Int) throws(PickleFault) -> TorchStorage {
        guard case .tuple(let tuple) = id, tuple.items.count == 5, case .string("storage") = tuple.items[0],
            case .global(.storage(let type)) = tuple.items[1], case .string(let key) = tuple.items[2], case .integer(let count) = tuple.items[4],
            count >= 0
        else { throw fault("a persistent id is not that of a tensor's storage", at: start) }
        return TorchStorage(key: key, type: type, count: count)
    }

    private func call(_ function: PickleValue, _ arguments: PickleValue, _ start: Int) throws(PickleFault) -> PickleValue {
        guard case .global(let global) = function, case .tuple(let tuple) = arguments else {
            throw fault("it calls something that is no function", at: start)
        }
        let items = tuple.items
        switch global {
        case .orderedDictionary where items.isEmpty: return .dictionary(newDictionary())
        case .size: return items.count == 1 ? items[0] : .ignored
        case .rebuildParameter:
            guard let first = items.first, case .tensor = first else { throw fault("a parameter is made of something that is no tensor", at: start) }
            return first
        case .rebuildTensor, .rebuildTensorWithType:
            guard items.count >= 4, case .storage(let storage) = items[0], case .integer(let offset) = items[1], let shape = integers(items[2]),
                let strides = integers(items[3])
            else { throw fault("a tensor is made of other things than a storage, an offset, a shape and strides", at: start) }
            var type = storage.type
            if global == .rebuildTensorWithType, items.count >= 7, case .global(.dtype(let named)) = items[6] { type = named }
            guard let type else { throw fault("a tensor has no dtype", at: start) }
            return .tensor(TorchTensor(storage: storage, type: type, offset: offset, shape: shape, strides: strides))
        default: throw fault("it calls a type with arguments that no tensor needs", at: start)
        }
    }

    private func integers(_ value: PickleValue) -> [Int]? {
        guard case .tuple(let tuple) = value, tuple.items.count <= 64 else { return nil }
        var numbers: [Int] = []
        for item in tuple.items {
            guard case .integer(let number) = item else { return nil }
            numbers.append(number)
        }
        return numbers
    }
}
