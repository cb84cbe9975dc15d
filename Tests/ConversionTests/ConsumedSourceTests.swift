import Foundation
import Recast
import TestSupport
import Testing

/// Sources that are freed while they are converted.
@Suite struct ConsumedSourceTests {
    /// Three files with tensors that are worth a hole.
    /// - Parameter isCrossed: whether scales lie in other files than their codes.
    private func source(_ folder: TemporaryDirectory, _ name: String = "source", isCrossed: Bool = true) throws -> String {
        var model = SyntheticModel()
        (model.hidden, model.intermediate, model.expertWidth, model.scalesElsewhere) = (512, 384, 256, isCrossed)
        try model.build().write(to: folder.file(name))
        return folder.file(name)
    }

    @discardableResult private func consume(
        _ source: String, _ destination: String, to target: String, stop: StopToken = StopToken()
    ) throws -> RunReport {
        let checkpoint = try Checkpoint(opening: source) { try ConsumedDirectory($0) }
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target))
        let run = ConversionRun(
            plan: plan, checkpoint: checkpoint, destination: destination, consumable: try ConsumableSource(checkpoint, plan),
            options: RunOptions(jobs: 1))
        return try run.execute(stop: stop)
    }

    private func request(_ source: String, _ destination: String, to target: String) -> ConversionRequest {
        var request = ConversionRequest(source, to: destination, layout: target)
        request.options.consumesSource = true
        return request
    }

    private func failure(_ body: () throws -> Void) -> (any Failure)? {
        do { try body() } catch let failure as any Failure { return failure } catch { Issue.record("\(error)") }
        return nil
    }

    private func consumed(_ directory: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.contains(".consumed-") }
    }

    @Test func filesAreFreedAndTheOutputIsTheSame() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        try convert(source, folder.file("whole"), to: "int4-g32")
        let report = try consume(source, folder.file("out"), to: "int4-g32")
        #expect(try directoryContents(folder.file("whole")) == directoryContents(folder.file("out")))
        #expect(report.freedBytes > 1 << 20)
        #expect(try consumed(source).count == 3)
        // What is left is no checkpoint to anybody else, whatever is done with it.
        #expect(failure { _ = try Checkpoint(opening: source) }?.kind == .noInput)
        #expect(failure { try convert(source, folder.file("other"), to: "bf16") }?.kind == .noInput)
        #expect(failure { try consume(source, folder.file("other"), to: "bf16") }?.kind == .badData)
        #expect(!FileManager.default.fileExists(atPath: folder.file("other")))
        let one = try #require(try consumed(source).first)
        #expect(failure { _ = try Checkpoint(opening: source + "/" + one) }?.kind == .noInput)
    }

    /// Wherever a run stops, the same command goes on, and no file is freed that it still needs.
    @Test(arguments: ["bf16", "int4-g32", "fp8-channel", "nvfp4", "keep"]) func stoppedRunsGoOn(_ target: String) throws {
        let folder = try TemporaryDirectory()
        let isCrossed = ["bf16", "int4-g32"].contains(target)
        try convert(try source(folder, isCrossed: isCrossed), folder.file("whole"), to: target)
        let whole = try directoryContents(folder.file("whole"))
        var stops = Set<Int>()
        var events = 3, isStopped = true
        while isStopped {
            let source = try source(folder, "source-\(events)", isCrossed: isCrossed), destination = folder.file("out-\(events)")
            let stopped = failure { try consume(source, destination, to: target, stop: StopToken(afterEvents: events)) }
            isStopped = stopped != nil
            if let stopped {
                #expect(stopped.kind == .interrupted)
                stops.insert(try consumed(source).count)
                // Once more on the way, and then to the end.
                _ = failure { try consume(source, destination, to: target, stop: StopToken(afterEvents: events / 2)) }
                if try !ConversionRun.isFinished(destination) { try consume(source, destination, to: target) }
            }
            #expect(try directoryContents(destination) == whole, "\(target), stopped after \(events)")
            #expect(try consumed(source).count == 3)
            events += max(4, events / 6)
        }
        // The modules that share a range in NVFP4 lie in all three files, so that none is free before the end.
        #expect(stops.contains(0) && (stops.count > 1 || target == "nvfp4"), "\(stops)")
    }

    /// Data that were freed and are needed once more are asked for by name.
    @Test func whatWasMadeOfItMustBeThere() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        var events = 20
        while try consumed(source).isEmpty {
            _ = failure { try consume(source, folder.file("out"), to: "bf16", stop: StopToken(afterEvents: events)) }
            events += 10
        }
        let finished = try FileManager.default.contentsOfDirectory(atPath: folder.file("out")).filter { $0.hasSuffix(".safetensors") }
        for name in finished { try FileManager.default.removeItem(atPath: folder.file("out/" + name)) }
        #expect(failure { try consume(source, folder.file("out"), to: "bf16") }?.kind == .badData)
        #expect(failure { try consume(source, folder.file("elsewhere"), to: "bf16") }?.kind == .badData)
    }

    /// A file that is there again is read, and what was left of it is nobody's.
    @Test func restoredFilesCount() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let before = try directoryContents(source)
        try convert(source, folder.file("whole"), to: "bf16")
        try consume(source, folder.file("out"), to: "int4-g32")
        for (name, bytes) in before { try Data(bytes).write(to: URL(fileURLWithPath: source + "/" + name)) }
        // Which of the two a run would go on from nobody knows.
        #expect(failure { try consume(source, folder.file("anew"), to: "bf16") }?.kind == .usage)
        try convert(source, folder.file("again"), to: "bf16")
        #expect(try directoryContents(folder.file("whole")) == directoryContents(folder.file("again")))
    }

    @Test func sourcesOfOthersAreLeftAlone() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let file =
            source + "/" + (try #require(try FileManager.default.contentsOfDirectory(atPath: source).filter { $0.hasSuffix(".safetensors") }.min()))
        let before = try directoryContents(source)
        func refused(_ path: String, _ change: (inout ConversionRequest) -> Void = { _ in }, by word: String) {
            var request = request(path, folder.file("out"), to: "bf16")
            change(&request)
            let failure = failure { _ = try Conversion.plan(request) }
            #expect(failure?.kind == .usage && failure.map { "\($0)".contains(word) } == true, "\(failure.map { "\($0)" } ?? "nothing")")
        }
        try FileManager.default.createSymbolicLink(atPath: folder.file("link"), withDestinationPath: source)
        refused(folder.file("link"), by: "is a link")
        try FileManager.default.linkItem(atPath: file, toPath: folder.file("second-name"))
        refused(source, by: "2 names")
        try FileManager.default.removeItem(atPath: folder.file("second-name"))
        try FileManager.default.moveItem(atPath: file, toPath: folder.file("blob"))
        try FileManager.default.createSymbolicLink(atPath: file, withDestinationPath: folder.file("blob"))
        refused(source, by: "is a link")
        try FileManager.default.removeItem(atPath: file)
        try FileManager.default.moveItem(atPath: folder.file("blob"), toPath: file)
        refused(source + "/model.safetensors.index.json", by: "give its directory")
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: -5)], ofItemAtPath: file)
        refused(source, by: "before 1970")
        try FileManager.default.setAttributes([.modificationDate: Date()], ofItemAtPath: file)
        refused(source, { $0.options.overwrite = true }, by: "--overwrite")
        refused(source, { $0.part = try? Part(1, of: 2) }, by: "parts")
        refused(source, { ($0.quantizer, $0.layout, $0.tokens) = ("gptq", "int4-g32", .file("tokens.json")) }, by: "tokens")
        try convert(source, folder.file("archives"), to: "keep", container: ZstdArchive.self)
        refused(folder.file("archives"), by: "safetensors")
        #expect(try directoryContents(source) == before)
        #expect(!FileManager.default.fileExists(atPath: folder.file("out")))
        // Nothing was left that would stand in the way.
        #expect(try Conversion.plan(request(source, folder.file("out"), to: "bf16")).fileCount == 3)
    }

    /// Tensors that the output leaves out stay where they are, and so do files that hold nothing else.
    @Test func whatIsLeftOutStays() throws {
        let folder = try TemporaryDirectory()
        let checkpoint = try Checkpoint(opening: source(folder, isCrossed: false)) { try ConsumedDirectory($0) }
        // DeepSeek's own code takes no multi-token prediction.
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16", modelParallel: 1))
        let planned = Set(plan.weights.map(\.source))
        let left = checkpoint.weights.indices.filter { !planned.contains($0) && checkpoint.weights[$0].storedBytes >= 64 << 10 }
        #expect(!left.isEmpty)
        let consumable = try ConsumableSource(checkpoint, plan)
        for index in left {
            for stored in checkpoint.weights[index].stored {
                let range = stored.offset..<stored.offset + stored.byteCount
                #expect(!consumable.freed[stored.file].contains { $0.overlaps(range) }, "\(stored.name)")
            }
        }
    }

    /// A source that changes under the run stays as it is.
    @Test func changedFilesAreNotFreed() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let checkpoint = try Checkpoint(opening: source) { try ConsumedDirectory($0) }
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16"))
        let consumable = try ConsumableSource(checkpoint, plan)
        let file = source + "/" + checkpoint.fileNames[0]
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 1)], ofItemAtPath: file)
        let run = ConversionRun(plan: plan, checkpoint: checkpoint, destination: folder.file("out"), consumable: consumable)
        #expect(failure { _ = try run.execute() }?.kind == .inputOutput)
        #expect(FileManager.default.fileExists(atPath: file))
    }

    /// Whoever reads a file while another conversion frees it finds out before anything has its final name.
    @Test func readersOfAFreedFileFindOut() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let checkpoint = try Checkpoint(opening: source)
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16"))
        try consume(source, folder.file("out"), to: "int4-g32")
        let run = ConversionRun(plan: plan, checkpoint: checkpoint, destination: folder.file("reader"))
        #expect(failure { _ = try run.execute() }?.kind == .inputOutput)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.file("reader")) == [".recast"])
        let left = try FileManager.default.contentsOfDirectory(atPath: folder.file("reader/.recast"))
        #expect(!left.contains { $0.contains("safetensors") }, "\(left)")
    }

    @Test func roomIsCountedAsItIsMade() throws {
        let folder = try TemporaryDirectory()
        let checkpoint = try Checkpoint(opening: source(folder, isCrossed: false)) { try ConsumedDirectory($0) }
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16"))
        let consumable = try ConsumableSource(checkpoint, plan)
        let all = Set(plan.shards.indices), sizes = plan.shards.map(\.size)
        #expect(consumable.peakBytes(plan, unfinished: all, workers: 3) == sizes.reduce(0, +))
        // FP8 makes room for half of what BF16 takes.
        let one = consumable.peakBytes(plan, unfinished: all, workers: 1)
        #expect(one < sizes.reduce(0, +) * 3 / 4 && one > sizes.reduce(0, +) / 2)
    }

    @Test func namesTellWhatTheyWere() {
        let name = ConsumedName("model.safetensors", version: "1732")
        #expect(name.text == "model.safetensors.consumed-1732" && ConsumedName(parsing: name.text) == name)
        for other in ["model.safetensors", ".consumed-1", "a.consumed-", "a.consumed-1x", "a.consumed", "consumed-1", "a-1", ""] {
            #expect(ConsumedName(parsing: other) == nil, "\(other)")
        }
        #expect(ConsumedName.among(["a", "a.consumed-1", "b.consumed-2"]).keys.sorted() == ["b"])
    }
}
