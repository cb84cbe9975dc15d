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
}
