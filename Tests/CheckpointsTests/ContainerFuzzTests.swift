import Foundation
import Recast
import TestSupport
import Testing

/// Damaged archives, PyTorch zips and HDF5 files: opened and converted, or refused in a sentence; never a trap, a hang or a bomb.
@Suite struct ContainerFuzzTests {
    func mutate(_ original: [UInt8], _ round: Int, _ random: inout SeededGenerator) -> [UInt8] {
        var bytes = original
        func place(_ random: inout SeededGenerator) -> Int {
            // Headers and directories lie at the ends; a quarter of the edits go anywhere.
            switch Int.random(in: 0..<4, using: &random) {
            case 0: Int.random(in: 0..<bytes.count, using: &random)
            case 1: Int.random(in: 0..<min(bytes.count, 2048), using: &random)
            default: max(0, bytes.count - 1 - Int.random(in: 0..<2048, using: &random))
            }
        }
        for _ in 0..<Int.random(in: 1...6, using: &random) {
            let at = place(&random)
            switch Int.random(in: 0..<5, using: &random) {
            case 0: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: bytes[at] = UInt8.random(in: 0...255, using: &random)
            case 2: bytes[at] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &random)!
            case 3:
                for next in at..<min(bytes.count, at + 8) { bytes[next] = 0xFF }
            default:
                if round % 7 == 0 { bytes = Array(bytes.prefix(max(1, Int.random(in: 0...bytes.count, using: &random)))) }
            }
        }
        return bytes
    }

    /// Tensors of every part that a container describes in its own way: small and large, chunked, quantized.
    func source(_ folder: TemporaryDirectory) throws -> String {
        var builder = CheckpointBuilder()
        var random = SeededGenerator(600)
        builder.addFP8("model.layers.0.a", 64, 160, &random)
        builder.addBF16("model.layers.0.b.weight", [160, 200], &random)
        builder.addBF16("model.norm.weight", [33], &random)
        builder.add("model.count", .i64, [], CheckpointBuilder.bytes(Int64(7)))
        builder.add("model.empty", .f32, [0, 4], [])
        try builder.write(to: folder.file("source"))
        return folder.file("source")
    }

    @Test(arguments: [("zstd", "model.safetensors.zst", 1500), ("torch", "pytorch_model.bin", 3000), ("hdf5", "model.h5", 500)])
    func mutatedFiles(_ name: String, _ file: String, _ rounds: Int) throws {
        let folder = try TemporaryDirectory()
        try convert(source(folder), folder.file("m"), to: "keep", container: ContainerRegistry.container(named: name))
        try FileManager.default.removeItem(atPath: folder.file("m/recast.manifest.json"))
        let path = folder.file("m/" + file)
        let original = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        var random = SeededGenerator(700)
        var (finished, refused) = (0, 0)
        for round in 0..<rounds {
            try Data(mutate(original, round, &random)).write(to: URL(fileURLWithPath: path))
            do {
                let checkpoint = try Checkpoint(opening: folder.file("m"))
                _ = Inventory(of: checkpoint)
                let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16"))
                _ = try ScaleCheck.findings(in: checkpoint)
                if plan.outputBytes < 16 << 20 {
                    _ = try ConversionRun(
                        plan: plan, checkpoint: checkpoint, destination: folder.file("out"), options: RunOptions(jobs: 1, overwrite: true)
                    ).execute()
                }
                finished += 1
            } catch let failure as any Failure {
                #expect(!failure.description.isEmpty && failure.kind != .internalError, "\(failure)")
                refused += 1
            }
            try? FileManager.default.removeItem(atPath: folder.file("out"))
        }
        #expect(finished + refused == rounds && refused > rounds / 4 && finished > 0, "\(name): \(finished) finished, \(refused) refused")
    }

    /// Opcodes and numbers at random: nothing is run, nothing traps.
    @Test func randomPickles() throws {
        let folder = try TemporaryDirectory()
        let opcodes = Array("(.0125NJKMGXTUBC)t]}aesuqrhjcQRb".utf8) + [0x80, 0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x8D, 0x93, 0x94, 0x95]
        let words = [
            "ctorch._utils\n_rebuild_tensor_v2\n", "ccollections\nOrderedDict\n", "ctorch\nFloatStorage\n", "X\u{7}\0\0\0storage", "K\u{1}",
            "cos\nsystem\n",
        ]
        var random = SeededGenerator(800)
        var opened = 0
        for _ in 0..<4000 {
            var pickle: [UInt8] = [0x80, 2]
            for _ in 0..<Int.random(in: 1...40, using: &random) {
                if Bool.random(using: &random) {
                    pickle += words.randomElement(using: &random)!.utf8
                } else {
                    pickle.append(opcodes.randomElement(using: &random)!)
                    for _ in 0..<Int.random(in: 0...2, using: &random) { pickle.append(UInt8.random(in: 0...8, using: &random)) }
                }
            }
            pickle.append(UInt8(ascii: "."))
            try Data(ZipBuilder.zip([("a/data.pkl", pickle), ("a/data/0", [UInt8](repeating: 1, count: 64))]))
                .write(to: URL(fileURLWithPath: folder.file("x.pt")))
            do {
                _ = try ContainerRegistry.open(folder.file("x.pt"))
                opened += 1
            } catch let failure as any Failure { #expect(failure.kind == .badData, "\(failure)") }
        }
        #expect(opened > 0 && opened < 4000)
    }
}
