import Tensors

/// Writes what `torch.save(state_dict)` writes: a zip with the pickle first and each tensor's bytes as an entry of its own, aligned to
/// 64 bytes as torch aligns them, so that `torch.load(mmap=True)` maps them.
struct TorchWriter {
    private static let root = "archive/"
    private static let alignment = 64

    private struct Entry {
        var name: String
        var byteCount: Int
        var content: Content
        /// First byte of the local header.
        var header = 0
        /// Bytes of the extra field that moves the content to its alignment.
        var extra = 0
        var checksum: UInt32 = 0

        var offset: Int { header + 30 + name.utf8.count + extra }
    }

    private enum Content {
        case bytes([UInt8])
        /// A tensor's bytes in the source.
        case source(Int)
    }

    private let source: TensorFile
    private let options: PackingOptions
    private var entries: [Entry] = []
    private var end = 0

    init(_ source: TensorFile, _ options: PackingOptions) throws {
        self.source = source
        self.options = options
        var data: [Entry] = []
        var pickle = PickleWriter()
        for (key, tensor) in source.tensors.enumerated() {
            guard let type = TorchType(tensor.type) else {
                throw ContainerFailure(source.bytes.path, "tensor \(tensor.name): PyTorch has no dtype for \(tensor.type.rawValue)")
            }
            pickle.add(tensor, type, key: String(key))
            data.append(Entry(name: Self.root + "data/\(key)", byteCount: tensor.byteCount, content: .source(tensor.offset)))
        }
        func text(_ name: String, _ bytes: [UInt8]) -> Entry { Entry(name: Self.root + name, byteCount: bytes.count, content: .bytes(bytes)) }
        entries =
            [
                text("data.pkl", pickle.finish()), text(".format_version", Array("1".utf8)),
                text(".storage_alignment", Array("\(Self.alignment)".utf8)),
                text("byteorder", Array("little".utf8)),
            ] + data + [text("version", Array("3\n".utf8))]
        for index in entries.indices { place(index) }
    }

    /// Entries follow each other; the extra field makes each content begin at a multiple of the alignment.
    private mutating func place(_ index: Int) {
        entries[index].header = end
        let bare = end + 30 + entries[index].name.utf8.count + 4 + (isLarge(entries[index]) ? 20 : 0)
        entries[index].extra = (Self.alignment - bare % Self.alignment) % Self.alignment + 4 + (isLarge(entries[index]) ? 20 : 0)
        end = entries[index].offset + entries[index].byteCount
    }

    /// Whether the entry's size needs 64 bits.
    private func isLarge(_ entry: Entry) -> Bool { entry.byteCount >= 0xFFFF_FFFF }

    func write(to path: String) throws {
        let file = try PositionedFile.openForWriting(path, truncate: true)
        let buffer = try AlignedBuffer(byteCount: max(64 << 10, min(4 << 20, options.memory)))
        var entries = entries
        for index in entries.indices {
            let entry = entries[index]
            try options.checkpoint()
            switch entry.content {
            case .bytes(let bytes):
                entries[index].checksum = bytes.withUnsafeBytes { TorchArchive.checksum($0) }
                try file.write(bytes, at: entry.offset)
            case .source(let start): entries[index].checksum = try copy(start, entry, to: file, buffer)
            }
            try file.write(local(entries[index]), at: entry.header)
        }
        try file.write(directory(entries), at: end)
        try file.synchronize()
    }

    private func copy(_ start: Int, _ entry: Entry, to file: PositionedFile, _ buffer: AlignedBuffer) throws -> UInt32 {
        var checksum: UInt32 = 0
        for done in stride(from: 0, to: entry.byteCount, by: buffer.bytes.count) {
            try options.checkpoint()
            let piece = buffer.slice(0..<min(buffer.bytes.count, entry.byteCount - done))
            guard try source.bytes.read(into: piece, at: start + done) == piece.count else {
                throw ContainerFailure(source.bytes.path, "the file ended at byte \(start + done) while it was packed; restore it and run again")
            }
            checksum = TorchArchive.checksum(UnsafeRawBufferPointer(piece), from: checksum)
            try file.write(UnsafeRawBufferPointer(piece), at: entry.offset + done)
        }
        return checksum
    }

    private func local(_ entry: Entry) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(word: ZipDirectory.localMagic)
        common(entry, into: &bytes)
        bytes.append(half: entry.name.utf8.count)
        bytes.append(half: entry.extra)
        bytes += entry.name.utf8
        var left = entry.extra
        if isLarge(entry) {
            bytes.append(half: 1)
            bytes.append(half: 16)
            bytes.append(long: UInt64(entry.byteCount))
            bytes.append(long: UInt64(entry.byteCount))
            left -= 20
        }
        // "FB", as torch pads.
        bytes += [0x46, 0x42]
        bytes.append(half: left - 4)
        return bytes + [UInt8](repeating: 0x5A, count: left - 4)
    }

    /// From the version needed to the uncompressed size: the same in both headers.
    private func common(_ entry: Entry, into bytes: inout [UInt8]) {
        bytes.append(half: isLarge(entry) || entry.header >= 0xFFFF_FFFF ? 45 : 0)
        bytes.append(half: 0x800)  // names are UTF-8
        bytes.append(half: 0)  // stored
        bytes.append(half: 0)  // midnight ...
        bytes.append(half: 0x21)  // ... of 1 January 1980: the same conversion gives the same bytes
        bytes.append(word: entry.checksum)
        let size = UInt32(truncatingIfNeeded: min(entry.byteCount, 0xFFFF_FFFF))
        bytes.append(word: size)
        bytes.append(word: size)
    }

    private func directory(_ entries: [Entry]) -> [UInt8] {
        var bytes: [UInt8] = []
        for entry in entries {
            var extra: [UInt8] = []
            if isLarge(entry) {
                extra.append(long: UInt64(entry.byteCount))
                extra.append(long: UInt64(entry.byteCount))
            }
            if entry.header >= 0xFFFF_FFFF { extra.append(long: UInt64(entry.header)) }
            bytes.append(word: ZipDirectory.centralMagic)
            bytes.append(half: 45)
            common(entry, into: &bytes)
            bytes.append(half: entry.name.utf8.count)
            bytes.append(half: extra.isEmpty ? 0 : extra.count + 4)
            for _ in 0..<5 { bytes.append(half: 0) }  // comment, disk, attributes
            bytes.append(word: UInt32(truncatingIfNeeded: min(entry.header, 0xFFFF_FFFF)))
            bytes += entry.name.utf8
            if !extra.isEmpty {
                bytes.append(half: 1)
                bytes.append(half: extra.count)
                bytes += extra
            }
        }
        let size = bytes.count
        if entries.count >= 0xFFFF || size >= 0xFFFF_FFFF || end >= 0xFFFF_FFFF {
            bytes.append(word: ZipDirectory.end64Magic)
            bytes.append(long: 44)
            bytes.append(half: 45)
            bytes.append(half: 45)
            bytes.append(long: 0)
            for number in [entries.count, entries.count, size, end] { bytes.append(long: UInt64(number)) }
            bytes.append(word: ZipDirectory.locator64Magic)
            bytes.append(word: 0)
            bytes.append(long: UInt64(end + size))
            bytes.append(word: 1)
        }
        bytes.append(word: ZipDirectory.endMagic)
        bytes.append(long: UInt64(min(entries.count, 0xFFFF)) << 32 | UInt64(min(entries.count, 0xFFFF)) << 48)
        bytes.append(word: UInt32(truncatingIfNeeded: min(size, 0xFFFF_FFFF)))
        bytes.append(word: UInt32(truncatingIfNeeded: min(end, 0xFFFF_FFFF)))
        bytes.append(half: 0)
        return bytes
    }
}

/// The pickle of a dictionary of tensors, protocol 2, in the words that `torch.load(weights_only=True)` allows.
private struct PickleWriter {
    private var bytes: [UInt8] = [0x80, 2, UInt8(ascii: "}"), UInt8(ascii: "(")]

    mutating func add(_ tensor: StoredTensor, _ type: TorchType, key: String) {
        text(tensor.name)
        global("torch._utils", type.storageName == nil ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2")
        bytes.append(UInt8(ascii: "("))
        bytes.append(UInt8(ascii: "("))
        text("storage")
        if let name = type.storageName { global("torch", name) } else { global("torch.storage", "UntypedStorage") }
        text(key)
        text("cpu")
        integer(type.storageName == nil ? tensor.byteCount : tensor.byteCount / type.byteCount)
        bytes += [UInt8(ascii: "t"), UInt8(ascii: "Q")]
        integer(0)
        tuple(tensor.shape)
        var strides = [Int](repeating: 1, count: tensor.shape.count)
        for index in strides.indices.dropLast().reversed() { strides[index] = strides[index + 1] * max(1, tensor.shape[index + 1]) }
        tuple(strides)
        bytes.append(0x89)
        global("collections", "OrderedDict")
        bytes += [UInt8(ascii: ")"), UInt8(ascii: "R")]
        if type.storageName == nil { global("torch", type.dtypeName) }
        bytes += [UInt8(ascii: "t"), UInt8(ascii: "R")]
    }

    func finish() -> [UInt8] { bytes + [UInt8(ascii: "u"), UInt8(ascii: ".")] }

    private mutating func text(_ text: String) {
        bytes.append(UInt8(ascii: "X"))
        bytes.append(word: UInt32(text.utf8.count))
        bytes += text.utf8
    }

    private mutating func global(_ module: String, _ name: String) { bytes += "c\(module)\n\(name)\n".utf8 }

    private mutating func integer(_ value: Int) {
        if value < 0x8000_0000 {
            bytes.append(UInt8(ascii: "J"))
            bytes.append(word: UInt32(value))
        } else {
            bytes += [0x8A, 8]
            bytes.append(long: UInt64(value))
        }
    }

    private mutating func tuple(_ values: [Int]) {
        bytes.append(UInt8(ascii: "("))
        values.forEach { integer($0) }
        bytes.append(UInt8(ascii: "t"))
    }
}
