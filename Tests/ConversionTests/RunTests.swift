import Foundation
import Recast
import TestSupport
import Testing

/// Destinations, interruptions and damage.
@Suite struct RunTests {
    func source(_ folder: TemporaryDirectory, _ change: (inout CheckpointBuilder) throws -> Void = { _ in }) throws -> String {
        var builder = SyntheticModel().build()
        try change(&builder)
        try builder.write(to: folder.file("source"))
        return folder.file("source")
    }

    func failure(_ body: () throws -> Void) -> (any Failure)? {
        do { try body() } catch let failure as any Failure { return failure } catch { Issue.record("\(error)") }
        return nil
    }

    @Test func destinationsAreTreatedByTheContract() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        try FileManager.default.createDirectory(atPath: folder.file("empty"), withIntermediateDirectories: true)
        try convert(source, folder.file("empty"), to: "bf16", options: RunOptions(resume: true))
        let bytes = try directoryContents(folder.file("empty"))
        #expect(failure { try convert(source, folder.file("empty"), to: "bf16") }?.kind == .cannotCreate)
        #expect(try convert(source, folder.file("empty"), to: "bf16", options: RunOptions(resume: true)).alreadyFinished)
        #expect(failure { try convert(source, folder.file("empty"), to: "f32", options: RunOptions(resume: true)) }?.kind == .cannotCreate)
        #expect(try directoryContents(folder.file("empty")) == bytes)
        try convert(source, folder.file("empty"), to: "f32", options: RunOptions(overwrite: true))
        try convert(source, folder.file("empty"), to: "bf16", options: RunOptions(overwrite: true))
        #expect(try directoryContents(folder.file("empty")) == bytes)

        try Data("mine".utf8).write(to: URL(fileURLWithPath: folder.file("file")))
        #expect(failure { try convert(source, folder.file("file"), to: "bf16") }?.kind == .cannotCreate)
        #expect(failure { try convert(source, folder.file("file/below"), to: "bf16") }?.kind == .cannotCreate)
        try FileManager.default.createDirectory(atPath: folder.file("full"), withIntermediateDirectories: true)
        try Data("mine".utf8).write(to: URL(fileURLWithPath: folder.file("full/notes.txt")))
        #expect(failure { try convert(source, folder.file("full"), to: "bf16") }?.kind == .cannotCreate)
        try convert(source, folder.file("full"), to: "bf16", options: RunOptions(overwrite: true))
        #expect(try String(contentsOfFile: folder.file("full/notes.txt"), encoding: .utf8) == "mine")
    }

    /// Zeros as holes are the same bytes, be they converted, copied, or written over what an earlier run left.
    @Test func sparseRunsWriteTheSameBytes() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder) { builder in
            for index in builder.tensors.indices where builder.tensors[index].name.contains("up_proj.weight") {
                builder.tensors[index].tensor.bytes = [UInt8](repeating: 0, count: builder.tensors[index].tensor.bytes.count)
            }
        }
        var options = RunOptions()
        options.isSparse = true
        for layout in ["bf16", "keep"] {
            try convert(source, folder.file(layout), to: layout)
            try convert(source, folder.file(layout + "-sparse"), to: layout, options: options)
            #expect(try directoryContents(folder.file(layout)) == directoryContents(folder.file(layout + "-sparse")), "\(layout)")
        }
        try convert(source, folder.file("whole"), to: "int4-g32")
        #expect(try interrupt(source, folder.file("part"), after: 5))
        try convert(source, folder.file("part"), to: "int4-g32", options: options)
        #expect(try directoryContents(folder.file("whole")) == directoryContents(folder.file("part")))
        var request = ConversionRequest(source, to: folder.file("packed"), layout: "bf16")
        (request.container, request.options) = ("zstd", options)
        #expect(failure { _ = try Conversion.plan(request) }?.kind == .usage)
    }

    @Test func theSourceIsNeverTheDestination() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let before = try directoryContents(source)
        for options in [RunOptions(), RunOptions(overwrite: true), RunOptions(resume: true)] {
            #expect(failure { try convert(source, source, to: "bf16", options: options) }?.kind == .cannotCreate)
            #expect(failure { try convert(source, source + "/../source", to: "bf16", options: options) }?.kind == .cannotCreate)
        }
        #expect(try directoryContents(source) == before)
    }

    func interrupt(_ source: String, _ destination: String, after weights: Int) throws -> Bool {
        try interruptedConversion(source, destination, to: "int4-g32", afterJournalLines: weights)
    }

    @Test func anInterruptedRunContinuesToTheSameBytes() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "int4-g32")
        let whole = try directoryContents(folder.file("whole"))
        for weights in [1, 40, 120, 300] {
            let target = folder.file("run-\(weights)")
            #expect(try interrupt(Fixtures.fp8Model, target, after: weights))
            do {
                #expect(FileManager.default.fileExists(atPath: target + "/.recast/journal"))
                #expect(!FileManager.default.fileExists(atPath: target + "/recast.manifest.json"))
                // Another conversion is refused here, the same one goes on.
                #expect(failure { try convert(Fixtures.fp8Model, target, to: "bf16") }?.kind == .cannotCreate)
                try convert(Fixtures.fp8Model, target, to: "int4-g32")
            }
            #expect(try directoryContents(target) == whole)
        }
    }

    /// What an earlier run wrote and a crash took is written again; nobody has to run the command once for each weight.
    @Test func damageToUnfinishedFilesIsFoundAndMended() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "int4-g32")
        let target = folder.file("run")
        #expect(try interrupt(Fixtures.fp8Model, target, after: 30))
        // What has passed its audit is not looked at again; nothing has.
        #expect(try !String(contentsOfFile: target + "/.recast/journal", encoding: .utf8).contains("\"audited\""))
        // Damage everything that is written but not yet under a final name.
        let unfinished = try FileManager.default.contentsOfDirectory(atPath: target + "/.recast").filter { $0.hasSuffix(".safetensors") }
        for name in unfinished {
            let file = try PositionedFile.openForWriting(target + "/.recast/" + name)
            let size = try file.size()
            for offset in stride(from: 30_000, to: size, by: 5000) { try file.write([0x5A, 0xA5, 0x5A], at: min(offset, size - 3)) }
        }
        #expect(!unfinished.isEmpty)
        let report = try convert(Fixtures.fp8Model, target, to: "int4-g32")
        #expect(report.findings.contains { $0.description.contains("were damaged") }, "\(report.findings)")
        #expect(try directoryContents(target) == directoryContents(folder.file("whole")))
    }

    @Test func aTornJournalLineIsIgnored() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "int4-g32")
        for cut in [1, 20, 75, 300] {
            let target = folder.file("run-\(cut)")
            #expect(try interrupt(Fixtures.fp8Model, target, after: 40))
            let journal = target + "/.recast/journal"
            let text = try Data(contentsOf: URL(fileURLWithPath: journal))
            try text.dropLast(cut).write(to: URL(fileURLWithPath: journal))
            try convert(Fixtures.fp8Model, target, to: "int4-g32")
            #expect(try directoryContents(target) == directoryContents(folder.file("whole")))
        }
    }

    @Test func nanIsCountedWhenItPassesAndRefusedWhenItCannot() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder) {
            let name = "model.layers.1.mlp.experts.2.up_proj.weight"
            $0[name]?.bytes[5] = 0x7F
            $0[name]?.bytes[700] = 0xFF
        }
        // What is damaged is carried on purpose or not at all.
        let refused = failure { try convert(source, folder.file("bf16"), to: "bf16") }
        #expect(refused?.kind == .badData && refused?.description.contains("experts.2.up_proj.weight") == true)
        var options = RunOptions()
        options.allowsNonFinite = true
        let report = try convert(source, folder.file("bf16"), to: "bf16", options: options)
        #expect(report.audit.notFinite == 2 && report.findings.map(\.subject) == ["model.layers.1.mlp.experts.2.up_proj.weight"])
        #expect(report.audit.sentence.contains("2 values are infinite or NaN"))
        for target in ["int4-g128", "int8-channel", "fp8-channel"] {
            let error = failure {
                try convert(
                    source, folder.file(target), to: target,
                    recipe: try Recipe(yaml: "rules: [{match: '*experts*', to: \(target == "int4-g128" ? "int4-g32" : target)}]", path: "r"))
            }
            #expect(error?.kind == .badData && error?.description.contains("experts.2.up_proj.weight") == true, "\(error.map { "\($0)" } ?? "")")
            #expect(
                try !FileManager.default.contentsOfDirectory(atPath: folder.file(target)).contains { $0.contains("manifest") || $0.contains("index") }
            )
        }
    }

    @Test func aSwappedScaleIsNamedBeforeAnythingIsWritten() throws {
        let folder = try TemporaryDirectory()
        let name = "model.layers.1.mlp.experts.2.down_proj.weight_scale_inv"
        let path = try source(folder) { builder in
            let count = builder[name]!.bytes.count / 4
            builder[name]?.bytes = (0..<count).flatMap { _ in CheckpointBuilder.bytes(Float(0.7).bitPattern) }
        }
        let findings = try ScaleCheck.findings(in: Checkpoint(opening: path))
        #expect(findings.count == 1 && findings[0].subject == name && findings[0].text.contains("times its siblings"), "\(findings)")
        #expect(try ScaleCheck.findings(in: Checkpoint(opening: Fixtures.fp8Model)).isEmpty)
        for (value, kind) in [(Float.nan, "nan"), (-1, "-1.0"), (.infinity, "inf")] {
            let broken = try TemporaryDirectory()
            let path = try source(broken) { $0[name]?.bytes.replaceSubrange(0..<4, with: CheckpointBuilder.bytes(value.bitPattern)) }
            let error = failure { _ = try ScaleCheck.findings(in: Checkpoint(opening: path)) }
            #expect(error?.kind == .badData && error?.description.contains(name) == true && error?.description.contains(kind) == true)
        }
    }

    @Test func valuesBeyondF16AreSaid() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(1)
        builder.addBF16("layers.0.w.weight", [4, 128], scale: 40_000, &random)
        try builder.write(to: folder.file("source"))
        let error = failure { try convert(folder.file("source"), folder.file("f16"), to: "f16") }
        #expect(error?.kind == .badData && error?.description.contains("65504") == true)
        let report = try convert(folder.file("source"), folder.file("int4"), to: "int4-g32")
        #expect(report.findings.contains { $0.subject == "layers.0.w.weight" && $0.text.contains("65504") })
    }

    @Test func aBudgetTooSmallForOneTileIsSaid() throws {
        let folder = try TemporaryDirectory()
        let error = failure { try convert(Fixtures.fp8Model, folder.file("out"), to: "int4-g128", options: RunOptions(memory: 100_000)) }
        #expect(error?.kind == .usage && error?.description.contains("working memory") == true)
        #expect(!FileManager.default.fileExists(atPath: folder.file("out")))
    }

    @Test func aSourceThatShrinksDuringTheRunIsBadData() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let checkpoint = try Checkpoint(opening: source)
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16"))
        let file = try PositionedFile.openForWriting(source + "/model-2-of-3.safetensors")
        try file.resize(to: try file.size() / 2)
        let error = failure { _ = try ConversionRun(plan: plan, checkpoint: checkpoint, destination: folder.file("out")).execute() }
        #expect(error?.kind == .badData && error?.description.contains("model-2-of-3.safetensors") == true)
        #expect(try !FileManager.default.contentsOfDirectory(atPath: folder.file("out")).contains("model-00002-of-00003.safetensors"))
    }

    @Test func aFlippedBitInASourceThatRecastWroteIsFound() throws {
        let folder = try TemporaryDirectory()
        try convert(try source(folder), folder.file("made"), to: "int4-g32")
        let checkpoint = try Checkpoint(opening: folder.file("made"))
        for kind in ["mlp.experts.1.up_proj.weight", "embed_tokens.weight"] {
            let weight = try #require(checkpoint.weights.first { $0.name.hasSuffix(kind) })
            let copy = folder.file("copy-" + kind)
            try FileManager.default.copyItem(atPath: folder.file("made"), toPath: copy)
            let stored = weight.stored[0]
            let file = try PositionedFile.openForWriting(copy + "/" + checkpoint.fileNames[stored.file])
            let byte = try file.read(1, at: stored.offset + 40)[0]
            try file.write([byte ^ 4], at: stored.offset + 40)
            let error = failure { try convert(copy, folder.file("out-" + kind), to: "bf16") }
            #expect(error?.kind == .badData && error?.description.contains(stored.name) == true, "\(error.map { "\($0)" } ?? "converted")")
            #expect(!FileManager.default.fileExists(atPath: folder.file("out-" + kind) + "/recast.manifest.json"))
            try file.write([byte], at: stored.offset + 40)
            try convert(copy, folder.file("good-" + kind), to: "bf16")
        }
    }

    @Test func everyFailureIsOneSentence() {
        let failures: [any Failure] = [
            ConversionFailure.unmatchedRules(["a"]), ConversionFailure.mixedConfigurations(["a", "b"]), ConversionFailure.tooLarge(tensor: "t"),
            ConversionFailure.memory(needed: 5, weight: "w", budget: 3), ConversionFailure.destinationIsSource(path: "p"),
            ConversionFailure.destinationNotEmpty(path: "p", reason: "r"), ConversionFailure.destinationBusy(path: "p"),
            ConversionFailure.noSpace(path: "p", needed: 1 << 40, free: 3), ConversionFailure.notFinite(weight: "w", row: 3, file: "f"),
            ConversionFailure.overflowsF16(weight: "w", row: 1), ConversionFailure.differs(weight: "w", file: "f", bytes: 3),
            ConversionFailure.interrupted(done: 3, total: 9), ConversionFailure.unsupported(weight: "w", layout: "l"),
            CheckpointFailure.missing(path: "p"), CheckpointFailure.noTensorFiles(path: "p"), CheckpointFailure.notACheckpointFile(path: "p"),
            CheckpointFailure.contradiction(tensor: "t", file: "f", reason: "is odd"),
            CheckpointFailure.badScale(tensor: "t", file: "f", value: "nan"),
            ShortRead(path: "p", tensor: "t", offset: 3),
        ]
        for failure in failures {
            #expect(!failure.description.contains("\n") && failure.description.count > 10 && failure.description.count < 260, "\(failure)")
        }
    }

    @Test func sizesAreReadAndWritten() {
        #expect(
            ByteSize(parsing: "2GiB")?.bytes == 2 << 30 && ByteSize(parsing: "512M")?.bytes == 512 << 20
                && ByteSize(parsing: "5 GB")?.bytes == 5_000_000_000)
        #expect(ByteSize(parsing: "1.5k")?.bytes == 1536 && ByteSize(parsing: "77")?.bytes == 77)
        for bad in ["", "x", "-1", "1XB", "0", "1e30", "99999999999T", "GiB"] { #expect(ByteSize(parsing: bad) == nil, "\(bad)") }
        #expect("\(ByteSize(1536))" == "1.5 KiB" && "\(ByteSize(20 << 30))" == "20 GiB" && "\(ByteSize(10))" == "10 B")
    }
}
