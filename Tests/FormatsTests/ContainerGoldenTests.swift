import Foundation
import Recast
import TestSupport
import Testing

/// What PyTorch and h5py write, and what nobody should open (`Tests/Scripts/golden_containers.py`).
@Suite struct ContainerGoldenTests {
    struct Contents: Equatable {
        var summary: String
        var bytes: [UInt8]
    }

    func contents(_ path: String) throws -> [String: Contents] {
        let opened = try ContainerRegistry.open(path)
        let file = try #require(opened)
        return Dictionary(
            try file.tensors.map { ($0.name, Contents(summary: $0.summary, bytes: try file.bytes.read($0.byteCount, at: $0.offset))) },
            uniquingKeysWith: { first, _ in first })
    }

    @Test(arguments: ["torch.pt", "foreign.h5", "keras.weights.h5"]) func whatPeersWriteIsReadToTheSameBytes(_ name: String) throws {
        let expected = try contents(Fixtures.path("containers/\(name).safetensors"))
        let found = try contents(Fixtures.path("containers/" + name))
        #expect(Set(found.keys) == Set(expected.keys) && !expected.isEmpty)
        for (tensor, contents) in expected { #expect(found[tensor] == contents, "\(tensor): \(found[tensor]?.summary ?? "missing")") }
    }

    /// Reads of any part give the same bytes as the whole: tiles are cut anywhere.
    @Test(arguments: ["torch.pt", "foreign.h5"]) func partsAreThoseOfTheWhole(_ name: String) throws {
        let opened = try ContainerRegistry.open(Fixtures.path("containers/" + name))
        let file = try #require(opened)
        var random = SeededGenerator(5)
        for tensor in file.tensors where tensor.byteCount > 0 {
            let whole = try file.bytes.read(tensor.byteCount, at: tensor.offset)
            for _ in 0..<40 {
                let start = Int.random(in: 0..<tensor.byteCount, using: &random)
                let end = Int.random(in: start...tensor.byteCount, using: &random)
                let part = try file.bytes.read(end - start, at: tensor.offset + start)
                #expect(part == Array(whole[start..<end]), "\(tensor.name) \(start)..<\(end)")
            }
        }
    }

    @Test func anUnknownFilterIsRefusedByName() throws {
        do {
            _ = try ContainerRegistry.open(Fixtures.path("containers/lzf.h5"))
            Issue.record("it was opened")
        } catch let failure as ContainerFailure {
            #expect(failure.description.contains("dataset w is compressed by filter 32000"))
        }
    }

    @Test func hostilePicklesAreRefusedForANamedReason() throws {
        let expected = try JSONValue(parsing: Fixtures.bytes("hostile-pickles/expected.json"))
        let reasons = expected.object?.members ?? []
        #expect(reasons.count > 40)
        for (name, reason) in reasons {
            let wanted = try #require(reason.string)
            do {
                _ = try ContainerRegistry.open(Fixtures.path("hostile-pickles/\(name).pt"))
                Issue.record("\(name) was opened")
            } catch let failure as any Failure {
                #expect(failure.kind == .badData && failure.description.contains(wanted), "\(name): \(failure)")
            }
        }
    }

    // MARK: The pages' worked examples

    func pack(_ builder: CheckpointBuilder, _ container: any Container.Type, _ folder: TemporaryDirectory) throws -> [UInt8] {
        try builder.write(to: folder.path)
        let opened = try ContainerRegistry.open(folder.file("model.safetensors"))
        let source = try #require(opened)
        try store(source, in: container, folder.file("packed"))
        return [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder.file("packed"))))
    }

    @Test func thePickleIsThatOfThePage() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        builder.add("w", .f32, [2], [0, 0, 0x80, 0x3F, 0, 0, 0, 0x40])
        let file = try pack(builder, TorchArchive.self, folder)
        var pickle: [UInt8] = [0x80, 2, 0x7D, 0x28, 0x58, 1, 0, 0, 0, 0x77, 0x63] + Array("torch._utils\n_rebuild_tensor_v2\n".utf8)
        pickle += [0x28, 0x28, 0x58, 7, 0, 0, 0] + Array("storage".utf8) + [0x63] + Array("torch\nFloatStorage\n".utf8)
        pickle += [0x58, 1, 0, 0, 0, 0x30, 0x58, 3, 0, 0, 0] + Array("cpu".utf8) + [0x4A, 2, 0, 0, 0, 0x74, 0x51, 0x4A, 0, 0, 0, 0]
        pickle += [0x28, 0x4A, 2, 0, 0, 0, 0x74, 0x28, 0x4A, 1, 0, 0, 0, 0x74, 0x89, 0x63] + Array("collections\nOrderedDict\n".utf8)
        pickle += [0x29, 0x52, 0x74, 0x52, 0x75, 0x2E]
        let isThere = Data(file).range(of: Data(pickle)) != nil
        #expect(isThere)
        let data = try #require(Data(file).range(of: Data([0, 0, 0x80, 0x3F, 0, 0, 0, 0x40])))
        #expect(data.lowerBound % 64 == 0)
    }

    @Test func theDatasetIsThatOfThePage() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        let numbers: [UInt8] = [0x80, 0x3F, 0xC0, 0xBF, 0x00, 0x3C, 0x00, 0x40]
        builder.add("w", .bf16, [2, 2], numbers)
        let file = try pack(builder, HDF5.self, folder)
        let isThere = Data(file).range(of: Data(numbers)) != nil
        #expect(isThere)
        let opened = try ContainerRegistry.open(folder.file("packed"))
        let dataset = try #require(opened)
        #expect(dataset.tensors.map(\.summary) == ["BF16 [2, 2]"])
        let stored = try dataset.bytes.read(8, at: dataset.tensors[0].offset)
        #expect(stored == numbers)
    }
}
