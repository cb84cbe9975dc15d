import Tensors

/// Lays out what `torch.save(state_dict)` writes: a zip with the pickle first and each tensor's bytes as an entry of its own, aligned to
/// 64 bytes as torch aligns them, so that `torch.load(mmap=True)` maps them.
struct TorchWriter {
    private static let root = "archive/"
    private static let alignment = 64

    private struct Entry {
        var name: String
        var byteCount: Int
        /// First byte of the local header.
        var header = 0
        /// Bytes of the extra field that moves the content to its alignment.
        var extra = 0
        var checksum: UInt32 = 0

        var offset: Int { header + 30 + name.utf8.count + extra }
    }

    private var entries: [Entry] = []
    private var end = 0

    /// Entries follow each other; the extra field makes each content begin at a multiple of the alignment.
    private mutating func add(_ name: String, _ byteCount: Int) -> Bool {
        var entry = Entry(name: name, byteCount: byteCount, header: end)
        let bare = end + 30 + name.utf8.count + 4 + (isLarge(entry) ? 20 : 0)
        entry.extra = (Self.alignment - bare % Self.alignment) % Self.alignment + 4 + (isLarge(entry) ? 20 : 0)
        let (next, over) = entry.offset.addingReportingOverflow(byteCount)
        guard !over, next < 1 << 60 else { return false }
        end = next
        entries.append(entry)
        return true
    }

    /// The places of tensors, in the order in which a safetensors file holds them. The checksums of their bytes are zero until the file is sealed.
    /// - Returns: nil if a size leaves Int or PyTorch has no dtype for a tensor.
    static func arrange(_ tensors: [TensorDeclaration]) -> FileArrangement? {
        let order = SafetensorsHeader.storageOrder(tensors)
        var pickle = PickleWriter()
        var sizes: [Int] = []
        for (key, index) in order.enumerated() {
            guard let type = TorchType(tensors[index].type), let byteCount = Shape.byteCount(tensors[index].shape, tensors[index].type) else {
                return nil
            }
            pickle.add(tensors[index], type, byteCount: byteCount, key: String(key))
            sizes.append(byteCount)
        }
        let texts = [
            ("data.pkl", pickle.finish()), (".format_version", Array("1".utf8)), (".storage_alignment", Array("\(alignment)".utf8)),
            ("byteorder", Array("little".utf8)),
        ]
        let version = ("version", Array("3\n".utf8))
        var writer = TorchWriter()
        for text in texts { guard writer.add(root + text.0, text.1.count) else { return nil } }
        for (key, size) in sizes.enumerated() { guard writer.add(root + "data/\(key)", size) else { return nil } }
        guard writer.add(root + version.0, version.1.count) else { return nil }

        var offsets = [Int](repeating: 0, count: tensors.count)
        for (key, index) in order.enumerated() { offsets[index] = writer.entries[texts.count + key].offset }
        var pieces: [FileArrangement.Piece] = []
        for index in writer.entries.indices {
            let text = index < texts.count ? texts[index].1 : index == writer.entries.count - 1 ? version.1 : []
            writer.entries[index].checksum = text.withUnsafeBytes { TorchArchive.checksum($0) }
            pieces.append(.init(offset: writer.entries[index].header, bytes: writer.local(writer.entries[index]) + text))
        }
        pieces.append(.init(offset: writer.end, bytes: writer.directory()))
        return FileArrangement(pieces: pieces, offsets: offsets, size: writer.end + (pieces.last?.bytes.count ?? 0))
    }

    /// Writes the headers anew with the checksums of the bytes that lie between them.
    static func seal(_ file: PositionedFile, checkpoint: () throws -> Void) throws {
        let found = try ZipDirectory(reading: file).entries
        let buffer = try AlignedBuffer(byteCount: 4 << 20)
        var writer = TorchWriter()
        for entry in found {
            guard writer.add(entry.name, entry.byteCount), writer.entries[writer.entries.count - 1].offset == entry.offset else {
                throw ContainerFailure(file.path, "its entry \"\(entry.name)\" is not where it was planned; remove the file and run again")
            }
        }
        for index in writer.entries.indices {
            let entry = writer.entries[index]
            for done in stride(from: 0, to: entry.byteCount, by: buffer.bytes.count) {
                try checkpoint()
                let piece = buffer.slice(0..<min(buffer.bytes.count, entry.byteCount - done))
                guard try file.read(into: piece, at: entry.offset + done) == piece.count else {
                    throw ContainerFailure(file.path, "the file ended at byte \(entry.offset + done) while it was sealed; run again")
                }
                writer.entries[index].checksum = TorchArchive.checksum(UnsafeRawBufferPointer(piece), from: writer.entries[index].checksum)
            }
        }
        for entry in writer.entries { try file.write(writer.local(entry), at: entry.header) }
        try file.write(writer.directory(), at: writer.end)
        try file.synchronize()
    }

    /// Whether the entry's size needs 64 bits.
    private func isLarge(_ entry: Entry) -> Bool { entry.byteCount >= 0xFFFF_FFFF }

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

    private func directory() -> [UInt8] {
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

    mutating func add(_ tensor: TensorDeclaration, _ type: TorchType, byteCount: Int, key: String) {
        text(tensor.name)
        global("torch._utils", type.storageName == nil ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2")
        bytes.append(UInt8(ascii: "("))
        bytes.append(UInt8(ascii: "("))
        text("storage")
        if let name = type.storageName { global("torch", name) } else { global("torch.storage", "UntypedStorage") }
        text(key)
        text("cpu")
        integer(type.storageName == nil ? byteCount : byteCount / type.byteCount)
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
