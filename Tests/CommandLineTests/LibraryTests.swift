import Foundation
import Recast
import TestSupport
import Testing

/// The library's public face does what the command does.
@Suite struct LibraryTests {
    private func files(_ directory: String) throws -> [String: Data] {
        let names = try FileManager.default.contentsOfDirectory(atPath: directory)
        return try Dictionary(uniqueKeysWithValues: names.map { ($0, try Data(contentsOf: URL(fileURLWithPath: directory + "/" + $0))) })
    }

    @Test func conversionsMakeTheCommandsFiles() async throws {
        let folder = try TemporaryDirectory()
        let report = try await Conversion.plan(ConversionRequest(Fixtures.fp8Model, to: folder.file("library"), layout: "int4-g32")).run().value()
        #expect(report.audit.differences == 0 && report.audit.roads[.quantize] ?? 0 > 0)
        let command = try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("command"), "--to", "int4-g32", "--quiet")
        #expect(command.status == 0)
        let made = try files(folder.file("library"))
        #expect(made == (try files(folder.file("command"))) && made["recast.manifest.json"] != nil)
    }

    @Test func aCancelledRunIsInterruptedAndGoesOn() async throws {
        let folder = try TemporaryDirectory()
        let conversion = try Conversion.plan(ConversionRequest(Fixtures.fp8Model, to: folder.file("out"), layout: "int4-g32"))
        let work = conversion.run()
        work.stop()
        await #expect { try await work.value() } throws: { ($0 as? any Failure)?.kind == .interrupted }
        let task = Task { try await conversion.run().value() }
        task.cancel()
        // It was stopped, or it was done before it could be.
        if case .failure(let error) = await task.result { #expect((error as? any Failure)?.kind == .interrupted) }
        let report = try await conversion.run().value()
        #expect(report.audit.differences == 0)
    }

    @Test func eventsEndWithTheReport() async throws {
        let folder = try TemporaryDirectory()
        let tokens = folder.file("tokens.json")
        try Data(#"{"sequences": [[1, 2, 3, 4, 5, 6, 7, 8]]}"#.utf8).write(to: URL(fileURLWithPath: tokens))
        var request = VerificationRequest(Fixtures.bf16Model, against: Fixtures.fp8Model)
        request.tokens = .file(tokens)
        request.bounds.maximumKLD = 1e-9
        var layers: [Int] = []
        var found: VerificationReport?
        for try await event in Verification.run(request) {
            #expect(found == nil, "nothing comes after the report")
            switch event {
            case .progress(let progress): layers.append(progress.layer)
            case .note: break
            case .finished(let report): found = report
            }
        }
        #expect(!layers.isEmpty && layers == layers.sorted())
        let report = try #require(found)
        #expect(!report.passed && !report.failures.isEmpty)
    }

    @Test func mistakesAreMatched() throws {
        var request = ConversionRequest(Fixtures.fp8Model, to: "/nowhere/out", layout: "int4-g32")
        request.container = "tar"
        #expect(throws: ConversionFailure.self) { try Conversion.plan(request) }
        request.container = nil
        request.quantizer = "gptq"
        #expect(throws: CalibrationFailure.needsTokens(.gptq)) { try Conversion.plan(request) }
        #expect(try Inventory(at: Fixtures.fp8Model).parameters > 0)
    }
}
