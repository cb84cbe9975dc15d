import Foundation
import Recast
import TestSupport
import Testing

/// Checkpoints into other containers and back: the same files, whoever wrote how many at a time and however often it was stopped.
@Suite struct ContainerConversionTests {
    /// GGUF holds llama.cpp's types only: GGUFConversionTests.
    static let containers: [String] = ContainerRegistry.containers.map { $0.name }.filter { !["safetensors", "gguf"].contains($0) }

    func container(_ name: String) throws -> any Container.Type {
        let found = ContainerRegistry.container(named: name)
        return try #require(found)
    }

    /// The tensor files of a directory by place, whatever they are called.
    func tensorFiles(_ directory: String) throws -> [Data] {
        try FileManager.default.contentsOfDirectory(atPath: directory).sorted().filter { $0.hasSuffix(".safetensors") }
            .map { try Data(contentsOf: URL(fileURLWithPath: directory + "/" + $0)) }
    }

    static func model(_ kind: String, _ folder: TemporaryDirectory) throws -> String {
        switch kind {
        case "bf16": return Fixtures.bf16Model
        case "fp8": return Fixtures.fp8Model
        default:
            try convert(Fixtures.bf16Model, folder.file("model"), to: kind)
            return folder.file("model")
        }
    }

    @Test(arguments: containers, ["bf16", "fp8", "int4-g128", "mxfp4"]) func thereAndBackTheFilesAreTheSame(_ name: String, _ kind: String) throws {
        let folder = try TemporaryDirectory()
        let source = try Self.model(kind, folder)
        let there = try convert(source, folder.file("there"), to: "keep", container: container(name))
        #expect(there.audit.roads[.passthrough] == there.audit.tensors && there.audit.differences == 0)
        try convert(folder.file("there"), folder.file("back"), to: "keep")
        #expect(try tensorFiles(folder.file("back")) == tensorFiles(source))
        #expect(FileManager.default.contentsEqual(atPath: folder.file("back/tokenizer.json"), andPath: source + "/tokenizer.json"))
        let config = try JSONValue(parsing: [UInt8](Data(contentsOf: URL(fileURLWithPath: folder.file("back/config.json")))))
        let original = try Checkpoint(opening: source).config
        #expect(config == original)
    }

    /// A conversion into a container holds what the conversion into safetensors holds.
    @Test(arguments: containers) func layoutsAndContainersAreTwoThings(_ name: String) throws {
        let folder = try TemporaryDirectory()
        for target in ["bf16", "int4-g32", "mlx-4bit"] {
            try convert(Fixtures.fp8Model, folder.file("plain-" + target), to: target)
            try convert(Fixtures.fp8Model, folder.file("packed-" + target), to: target, container: container(name))
            #expect(try storedTensors(folder.file("packed-" + target)) == storedTensors(folder.file("plain-" + target)), "\(target)")
        }
    }

    @Test(arguments: containers) func theBytesDependOnThePlanOnly(_ name: String) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("a"), to: "int4-g32", container: container(name), options: RunOptions(memory: 16 << 20, jobs: 1))
        try convert(Fixtures.fp8Model, folder.file("b"), to: "int4-g32", container: container(name), options: RunOptions(jobs: 5))
        #expect(try directoryContents(folder.file("a")) == directoryContents(folder.file("b")))
    }

    @Test(arguments: containers) func anInterruptedRunContinuesToTheSameBytes(_ name: String) throws {
        let folder = try TemporaryDirectory()
        let container = try container(name)
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "bf16", container: container)
        let whole = try directoryContents(folder.file("whole"))
        var stopped = 0
        for lines in [1, 56, 80, 115, 200, 350] {
            let target = folder.file("run-\(lines)")
            if try interruptedConversion(Fixtures.fp8Model, target, to: "bf16", container: container, afterJournalLines: lines) {
                stopped += 1
                try convert(Fixtures.fp8Model, target, to: "bf16", container: container)
            }
            #expect(try directoryContents(target) == whole, "stopped after \(lines)")
        }
        #expect(stopped > 0)
    }

    /// Whatever lies damaged in the working directory is found, and made again by the next runs.
    @Test(arguments: containers) func damageToUnfinishedFilesIsFound(_ name: String) throws {
        let folder = try TemporaryDirectory()
        let container = try container(name)
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "bf16", container: container)
        var damaged = 0
        for lines in [30, 57] {
            let target = folder.file("run-\(lines)")
            #expect(try interruptedConversion(Fixtures.fp8Model, target, to: "bf16", container: container, afterJournalLines: lines))
            // What was audited is on the disk and trusted.
            if try String(contentsOfFile: target + "/.recast/journal", encoding: .utf8).contains("audited") { continue }
            for file in try FileManager.default.contentsOfDirectory(atPath: target + "/.recast") where file != "journal" {
                let opened = try PositionedFile.openForWriting(target + "/.recast/" + file)
                let size = try opened.size()
                for offset in stride(from: 30_000, to: size, by: 40_000) { try opened.write([0x5A, 0xA5, 0x5A], at: min(offset, size - 3)) }
                damaged += 1
            }
            var attempts = 0
            while attempts < 300 {
                do {
                    try convert(Fixtures.fp8Model, target, to: "bf16", container: container)
                    break
                } catch is any Failure { attempts += 1 }
            }
            #expect(try directoryContents(target) == directoryContents(folder.file("whole")), "after \(attempts) attempts")
        }
        #expect(damaged > 0)
    }

    @Test(arguments: [HDF5Filter.zstd, .deflate, .none]) func oneFileHoldsTheWholeCheckpoint(_ filter: HDF5Filter) throws {
        let folder = try TemporaryDirectory()
        let path = folder.file("model.h5")
        try convert(Fixtures.fp8Model, path, to: "keep", filter: filter)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["model.h5", "model.h5.recast.manifest.json"])
        let checkpoint = try Checkpoint(opening: path)
        let original = try Checkpoint(opening: Fixtures.fp8Model).config
        #expect(checkpoint.config == original)
        #expect(checkpoint.sideFiles.map(\.name).contains("tokenizer.json"))
        try convert(path, folder.file("back"), to: "keep")
        #expect(try storedTensors(folder.file("back")) == storedTensors(Fixtures.fp8Model))
        #expect(try convert(Fixtures.fp8Model, path, to: "keep", filter: filter, options: RunOptions(resume: true)).alreadyFinished)
        #expect(throws: ConversionFailure.self) { try convert(Fixtures.fp8Model, path, to: "keep", filter: filter) }
        // Not even in the name of overwriting is a source its own destination.
        #expect(throws: ConversionFailure.self) { try convert(path, path, to: "bf16", options: RunOptions(overwrite: true)) }
    }

    @Test func whatAContainerCannotHoldIsRefusedByThePlan() throws {
        let folder = try TemporaryDirectory()
        func plan(_ container: any Container.Type) throws {
            let checkpoint = try Checkpoint(opening: folder.path)
            _ = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "keep"), output: OutputOptions(container: container))
        }
        var builder = CheckpointBuilder()
        builder.add("model.a", .f32, [1], [0, 0, 0, 0])
        builder.add("model.a.b", .f32, [1], [0, 0, 0, 0])
        try builder.write(to: folder.path)
        #expect(throws: ConversionFailure.self) { try plan(HDF5.self) }
        try plan(TorchArchive.self)
        builder = CheckpointBuilder()
        builder.add("model..a", .f32, [1], [0, 0, 0, 0])
        try builder.write(to: folder.path)
        #expect(throws: ConversionFailure.self) { try plan(HDF5.self) }
        builder = CheckpointBuilder()
        builder.add("model.positions", .f6E2M3, [4], [0, 0, 0])
        try builder.write(to: folder.path)
        if (try? Checkpoint(opening: folder.path).requireReadable()) != nil {
            #expect(throws: ConversionFailure.self) { try plan(TorchArchive.self) }
        }
    }

    /// Where a shard is the copy of a file, it is a copy to the last byte, header included.
    @Test func copiesKeepTheHeaderOfTheirFile() throws {
        let folder = try TemporaryDirectory()
        // Data in an order that no writer of ours would choose.
        let header =
            #"{"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"__metadata__":{"note":"mine"},"a":{"dtype":"I64","shape":[1],"data_offsets":[2,10]}}"#
        let text = Array(header.utf8) + [0x20, 0x20, 0x20]
        let bytes = CheckpointBuilder.bytes(Int64(text.count)) + text + [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        try FileManager.default.createDirectory(atPath: folder.file("m"), withIntermediateDirectories: true)
        try Data(bytes).write(to: URL(fileURLWithPath: folder.file("m/odd.safetensors")))
        for name in ["safetensors", "zstd"] {
            try convert(folder.file("m"), folder.file(name), to: "keep", container: container(name))
            try convert(folder.file(name), folder.file(name + "-back"), to: "keep")
            #expect(try Data(contentsOf: URL(fileURLWithPath: folder.file(name + "-back/model.safetensors"))) == Data(bytes))
        }
    }

    @Test func mergingAndCuttingKeepEveryTensor() throws {
        let folder = try TemporaryDirectory()
        let expected = try storedTensors(Fixtures.fp8Model)
        for (name, size) in [("one", 1 << 30), ("many", 400_000)] {
            try convert(Fixtures.fp8Model, folder.file(name), to: "keep", shardSize: size)
            #expect(try storedTensors(folder.file(name)) == expected)
        }
        #expect(try Checkpoint(opening: folder.file("one")).fileNames == ["model.safetensors"])
        #expect(try Checkpoint(opening: folder.file("many")).files.count > 20)
        try convert(folder.file("many"), folder.file("again"), to: "keep", shardSize: 1 << 30)
        #expect(try tensorFiles(folder.file("again")) == tensorFiles(folder.file("one")))
    }

    /// A single file of any container is a reference and a candidate like any other.
    @Test func verifyTakesFilesOfEveryContainer() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("one"), to: "keep", shardSize: 1 << 30)
        try convert(folder.file("one"), folder.file("zstd"), to: "keep", container: ZstdArchive.self)
        try convert(folder.file("one"), folder.file("torch"), to: "keep", container: TorchArchive.self)
        try convert(folder.file("one"), folder.file("m.h5"), to: "keep")
        for path in ["one/model.safetensors", "zstd/model.safetensors.zst", "torch/pytorch_model.bin", "m.h5"] {
            let reference = try ParityReference(opening: folder.file(path))
            let checkpoint = try #require(reference.checkpoint, "\(path)")
            let audit = try WeightAudit(reference: checkpoint, candidate: Checkpoint(opening: Fixtures.fp8Model))
            #expect(audit.weights.allSatisfy { $0.isIdentical } && audit.weights.count == 221, "\(path)")
        }
    }

    /// The forward pass does not know where its weights come from.
    @Test(arguments: containers) func logitsDoNotDependOnTheContainer(_ name: String) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("packed"), to: "keep", container: container(name))
        let tokens = TokenBatch([[5, 9, 200, 31, 77, 8], [1, 2, 3]])
        var logits: [Data] = []
        for path in [Fixtures.fp8Model, folder.file("packed")] {
            let out = folder.file("logits-\(logits.count).safetensors")
            let run = try ForwardRun(Checkpoint(opening: path), tokens: tokens)
            try run.execute(into: LogitsFile(out, run.configuration, tokens, hiddenStates: false))
            logits.append(try Data(contentsOf: URL(fileURLWithPath: out)))
        }
        #expect(logits[0] == logits[1])
    }
}
