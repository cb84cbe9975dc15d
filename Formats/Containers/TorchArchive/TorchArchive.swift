import CZlib
import Tensors

/// `torch.save`'s zip files: `.bin`, `.pt`, `.pth` (pytorch/pytorch:torch/serialization.py). The pickle inside is read, never run.
package enum TorchArchive: PlacedContainer {
    package static let name = "torch"
    package static let endings = [".bin", ".pt", ".pth"]
    package static let indexName = "pytorch_model.bin.index.json"

    package static func recognises(_ start: [UInt8]) -> Bool { start.starts(with: [0x50, 0x4B, 3, 4]) }

    package static func open(_ file: any SourceFile) throws -> TensorFile {
        let start = try file.read(8, at: 0)
        guard recognises(start) else {
            let isPickle = start.first == 0x80 && start.count > 1 && (2...5).contains(start[1])
            throw ContainerFailure(
                file.path,
                isPickle
                    ? "this is a bare pickle, as PyTorch before 1.6 wrote it; load it with weights_only=True and save it again with torch.save"
                    : "this is not a file that torch.save wrote; give a zip of PyTorch 1.6 or newer")
        }
        return try TorchReader(file).open()
    }

    package static func fileName(_ place: (number: String, count: String)?) -> String {
        place.map { "pytorch_model-\($0.number)-of-\($0.count).bin" } ?? "pytorch_model.bin"
    }

    package static func arrange(_ tensors: [TensorDeclaration], metadata: FileMetadata) -> FileArrangement? {
        TorchWriter.arrange(tensors)
    }

    /// Takes the checksums of all entries and writes them where the headers of a file that ``arrange(_:metadata:)`` described hold none.
    package static func seal(_ file: PositionedFile, checkpoint: () throws -> Void) throws {
        try TorchWriter.seal(file, checkpoint: checkpoint)
    }

    package static func obstacle(to tensors: [TensorDeclaration]) -> String? {
        tensors.first { TorchType($0.type) == nil }.map { "\($0.name): PyTorch has no dtype for \($0.type.rawValue)" }
    }

    /// CRC-32 as zip files carry it, continued from `checksum`.
    static func checksum(_ bytes: UnsafeRawBufferPointer, from checksum: UInt32 = 0) -> UInt32 {
        var sum = UInt(checksum)
        var rest = bytes
        while let base = rest.baseAddress, rest.count > 0 {
            let count = min(rest.count, 1 << 30)
            sum = crc32(sum, base.assumingMemoryBound(to: UInt8.self), UInt32(count))
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return UInt32(sum)
    }
}

/// Finds the tensors of an archive.
private struct TorchReader {
    let file: any SourceFile
    let entries: [String: ZipDirectory.Entry]
    /// The directory inside the zip, with its slash.
    let root: String
    let isBigEndian: Bool
    let pickle: [UInt8]

    init(_ file: any SourceFile) throws {
        self.file = file
        let directory = try ZipDirectory(reading: file)
        entries = Dictionary(directory.entries.map { ($0.name, $0) }) { first, _ in first }
        let pickles = directory.entries.filter { $0.name.hasSuffix("/data.pkl") }
        guard pickles.count == 1, let entry = pickles.first else {
            throw ContainerFailure(
                file.path,
                "the zip holds \(pickles.count) data.pkl where a checkpoint holds one; this is no file of torch.save (a TorchScript model or other zip?)"
            )
        }
        root = String(entry.name.dropLast("data.pkl".count))
        guard entries[root + "constants.pkl"] == nil else {
            throw ContainerFailure(file.path, "this is a TorchScript program, not a checkpoint; save its state_dict() with torch.save")
        }
        guard entry.byteCount <= PickleReader.sizeLimit else {
            throw ContainerFailure(file.path, "its data.pkl has \(entry.byteCount) bytes, above the limit of \(PickleReader.sizeLimit)")
        }
        pickle = try file.read(entry.byteCount, at: entry.offset)
        guard pickle.withUnsafeBytes({ TorchArchive.checksum($0) }) == entry.checksum else {
            throw ContainerFailure(file.path, "the checksum of its data.pkl is wrong; the file is damaged, copy it again")
        }
        let order = try entries[root + "byteorder"].map { String(decoding: try file.read(min($0.byteCount, 16), at: $0.offset), as: UTF8.self) }
        guard [nil, "little", "big"].contains(order) else {
            throw ContainerFailure(file.path, "its byte order is \"\(order ?? "")\", neither little nor big")
        }
        isBigEndian = order == "big"
    }

    func open() throws -> TensorFile {
        let found = try tensors()
        var bytes = SegmentedBytes.Builder(file, size: try file.size())
        var tensors: [StoredTensor] = []
        for (name, tensor) in found { tensors.append(try place(name, tensor, &bytes)) }
        tensors.sort { ($0.offset, $0.byteCount, $0.name) < ($1.offset, $1.byteCount, $1.name) }
        return TensorFile(tensors: tensors, bytes: bytes.finish(path: file.path, files: [file]))
    }

    /// The tensors that the pickle describes, by name.
    private func tensors() throws -> [(name: String, tensor: TorchTensor)] {
        do {
            var reader = PickleReader(pickle)
            let document = try reader.read()
            var found: [(name: String, tensor: TorchTensor)] = []
            var visits = 0
            try collect(Self.stateDictionary(document.root), "", depth: 0, &visits, &found)
            // The document owns what its values refer to.
            withExtendedLifetime(document) {}
            return found
        } catch let fault as PickleFault {
            throw ContainerFailure(file.path, "the pickle is refused at byte \(fault.offset): \(fault.reason)")
        }
    }

    /// The dictionary of tensors itself, or the one that a training checkpoint wraps in another with its other state.
    private static func stateDictionary(_ value: PickleValue) -> PickleValue {
        guard case .dictionary(let outer) = value, !outer.items.contains(where: { if case .tensor = $0.value { true } else { false } }) else {
            return value
        }
        for name in ["state_dict", "model_state_dict", "model", "module"] {
            for item in outer.items {
                if case .string(name) = item.key, case .dictionary = item.value { return item.value }
            }
        }
        return value
    }

    /// Tensors of nested dictionaries and lists, their keys joined by dots. Numbers and texts beside them are no tensors.
    private func collect(
        _ value: PickleValue, _ name: String, depth: Int, _ visits: inout Int, _ found: inout [(name: String, tensor: TorchTensor)]
    ) throws {
        visits += 1
        guard depth <= 32, visits <= 8 << 20 else {
            throw PickleFault(offset: pickle.count, reason: "it nests values deeper or more often than a checkpoint does, as bombs do")
        }
        func child(_ key: String) -> String { name.isEmpty ? key : name + "." + key }
        switch value {
        case .tensor(let tensor): found.append((name, tensor))
        case .dictionary(let dictionary):
            for item in dictionary.items {
                switch item.key {
                case .string(let key): try collect(item.value, child(key), depth: depth + 1, &visits, &found)
                case .integer(let key): try collect(item.value, child(String(key)), depth: depth + 1, &visits, &found)
                default: break
                }
            }
        case .list(let list):
            for (index, item) in list.items.enumerated() { try collect(item, child(String(index)), depth: depth + 1, &visits, &found) }
        case .tuple(let tuple):
            for (index, item) in tuple.items.enumerated() { try collect(item, child(String(index)), depth: depth + 1, &visits, &found) }
        default: break
        }
    }

    /// Where a tensor's bytes are: in its storage's entry, or gathered from there.
    private func place(_ name: String, _ tensor: TorchTensor, _ bytes: inout SegmentedBytes.Builder) throws -> StoredTensor {
        func refuse(_ reason: String) -> ContainerFailure { ContainerFailure(file.path, "tensor \(name) \(reason)") }
        guard let entry = entries[root + "data/" + tensor.storage.key] else {
            throw refuse("lies in the storage \"\(tensor.storage.key)\", which the zip does not hold")
        }
        let width = tensor.type.byteCount
        guard let byteCount = Shape.byteCount(tensor.shape, tensor.type.scalar), tensor.strides.count == tensor.shape.count, tensor.offset >= 0,
            tensor.strides.allSatisfy({ $0 >= 0 })
        else { throw refuse("has the impossible shape \(tensor.shape), strides \(tensor.strides) or offset \(tensor.offset)") }
        guard byteCount > 0 else {
            return StoredTensor(name: name, type: tensor.type.scalar, shape: tensor.shape, offset: entry.offset, byteCount: 0)
        }
        var last = tensor.offset
        for (size, stride) in zip(tensor.shape, tensor.strides) {
            let (product, over) = stride.multipliedReportingOverflow(by: size - 1)
            let (sum, overSum) = last.addingReportingOverflow(product)
            guard !over, !overSum else { throw refuse("has strides \(tensor.strides) that leave every storage") }
            last = sum
        }
        guard last < entry.byteCount / width else {
            throw refuse("needs element \(last) of the storage \"\(tensor.storage.key)\", which has \(entry.byteCount / width)")
        }
        guard byteCount <= entry.byteCount else {
            throw refuse("is an expanded view, \(byteCount) bytes out of a storage of \(entry.byteCount); save a contiguous copy of it")
        }
        let start = entry.offset + tensor.offset * width
        let isContiguous = Self.isContiguous(tensor)
        let swaps = isBigEndian && width > 1
        let offset =
            isContiguous && !swaps
            ? start
            : bytes.add(
                StridedView(
                    file: file, start: start, shape: tensor.shape, strides: tensor.strides, width: width,
                    swap: swaps ? (tensor.type.scalar == .c64 ? 4 : width) : 1))
        return StoredTensor(name: name, type: tensor.type.scalar, shape: tensor.shape, offset: offset, byteCount: byteCount)
    }

    private static func isContiguous(_ tensor: TorchTensor) -> Bool {
        var expected = 1
        for (size, stride) in zip(tensor.shape, tensor.strides).reversed() where size != 1 {
            if stride != expected { return false }
            expected *= size
        }
        return true
    }
}
