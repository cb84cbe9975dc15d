import Foundation
import Recast
import TestSupport
import Testing

/// Conversions in parts, and who says which part a process is.
@Suite struct DividedRunTests {
    func failure(_ body: () throws -> Void) -> ConversionFailure? {
        do { try body() } catch let failure as ConversionFailure { return failure } catch { Issue.record("\(error)") }
        return nil
    }

    func request(_ destination: String, _ part: Part? = nil, layout: String = "int4-g32") -> ConversionRequest {
        var request = ConversionRequest(Fixtures.fp8Model, to: destination, layout: layout)
        request.shardSize = 1 << 20
        request.part = part
        return request
    }

    @discardableResult func run(_ request: ConversionRequest) async throws -> RunReport { try await Conversion.plan(request).run().value() }

    @Test(arguments: [2, 5, 64]) func partsMakeTheSameBytes(count: Int) async throws {
        let folder = try TemporaryDirectory()
        try await run(request(folder.file("whole")))
        var values = 0
        for number in (1...count).reversed() { values += try await run(request(folder.file("parts"), Part(number, of: count))).audit.values }
        let joined = try await Conversion.finish(folder.file("parts")).value()
        #expect(joined?.audit.values == values)
        #expect(try directoryContents(folder.file("parts")) == directoryContents(folder.file("whole")))
        // Once more does nothing, and neither does a part that comes late.
        #expect(try await Conversion.finish(folder.file("parts")).value() == nil)
        #expect(try await run(request(folder.file("parts"), Part(1, of: count))).alreadyFinished)
        #expect(try directoryContents(folder.file("parts")) == directoryContents(folder.file("whole")))
    }

    @Test func everyShardHasOnePartAndPartsAreAlike() throws {
        let conversion = try Conversion.plan(request("nowhere"))
        let plan = conversion.plan
        for count in [1, 2, 3, 7, 40] {
            let shares = try (1...count).map { try Part($0, of: count).shards(of: plan) }
            #expect(shares.reduce(0) { $0 + $1.count } == plan.shards.count)
            #expect(shares.reduce(into: Set<Int>()) { $0.formUnion($1) } == Set(plan.shards.indices))
            // As the one that joins them sees it.
            #expect(shares.filter { !$0.isEmpty }.count == min(count, plan.shards.count))
            let sizes = shares.map { $0.reduce(0) { $0 + plan.shards[$1].size } }
            #expect(sizes.max()! - sizes.min()! <= plan.shards.map(\.size).max()!)
        }
    }

    @Test func partsThatWereStoppedOrComeTwiceGoOn() async throws {
        let folder = try TemporaryDirectory()
        let (whole, parts) = (folder.file("whole"), folder.file("parts"))
        try convert(Fixtures.fp8Model, whole, to: "int4-g32", shardSize: 1 << 20)
        for number in 1...3 {
            let part = try Part(number, of: 3)
            let stopped = failure {
                try convert(
                    Fixtures.fp8Model, parts, to: "int4-g32", shardSize: 1 << 20, part: part, options: RunOptions(jobs: 1),
                    stop: StopToken(afterEvents: 20))
            }
            #expect(stopped?.kind == .interrupted)
            try convert(Fixtures.fp8Model, parts, to: "int4-g32", shardSize: 1 << 20, part: part)
            try convert(Fixtures.fp8Model, parts, to: "int4-g32", shardSize: 1 << 20, part: part)
        }
        try await run(request(folder.file("asked"), Part(1, of: 3)))
        // The parts above were not asked for by a request, so the one below is refused for want of what they were made from.
        #expect((await failed { _ = try await Conversion.finish(parts).value() })?.kind == .usage)
        try FileManager.default.removeItem(atPath: parts + "/.recast/parts.json")
        try FileManager.default.copyItem(atPath: folder.file("asked/.recast/parts.json"), toPath: parts + "/.recast/parts.json")
        _ = try await Conversion.finish(parts).value()
        #expect(try directoryContents(parts) == directoryContents(whole))
    }

    func failed(_ body: () async throws -> Void) async -> (any Failure)? {
        do { try await body() } catch let failure as any Failure { return failure } catch { Issue.record("\(error)") }
        return nil
    }

    @Test func whatIsMissingOrAnotherIsRefused() async throws {
        let folder = try TemporaryDirectory()
        let parts = folder.file("parts")
        #expect((await failed { _ = try await Conversion.finish(parts).value() })?.kind == .usage)
        try await run(request(parts, Part(2, of: 3)))
        let missing = await failed { _ = try await Conversion.finish(parts).value() }
        #expect(missing as? ConversionFailure == .unfinishedParts([1, 3], of: 3, path: parts))
        #expect(missing?.kind == .interrupted)
        // Another number of parts, another conversion, one that is not divided.
        #expect((await failed { try await run(request(parts, Part(1, of: 4))) })?.kind == .usage)
        #expect((await failed { try await run(request(parts, Part(1, of: 3), layout: "bf16")) })?.kind == .cannotCreate)
        #expect((await failed { try await run(request(parts)) })?.kind == .cannotCreate)
        #expect(try FileManager.default.contentsOfDirectory(atPath: parts + "/.recast").sorted() == ["lock", "part-2-of-3", "parts.json"])
        // A file that was lost since is missed.
        try await run(request(parts, Part(1, of: 3)))
        try await run(request(parts, Part(3, of: 3)))
        let shard = try #require(FileManager.default.contentsOfDirectory(atPath: parts).filter { $0.hasSuffix(".safetensors") }.sorted().last)
        try FileManager.default.removeItem(atPath: parts + "/" + shard)
        #expect((await failed { _ = try await Conversion.finish(parts).value() })?.kind == .interrupted)
        for number in 1...3 { try await run(request(parts, Part(number, of: 3))) }
        #expect(try await Conversion.finish(parts).value() != nil)
        // Joined, and a file lost since: that is not "finished before".
        try FileManager.default.copyItem(atPath: parts, toPath: folder.file("lost"))
        try FileManager.default.removeItem(atPath: folder.file("lost/" + shard))
        #expect((await failed { _ = try await Conversion.finish(folder.file("lost")).value() })?.kind == .inputOutput)

        // Beside an undivided run that stopped, and over what is there.
        #expect(try interruptedConversion(Fixtures.fp8Model, folder.file("run"), to: "int4-g32", afterJournalLines: 20))
        #expect((await failed { try await run(request(folder.file("run"), Part(1, of: 3))) })?.kind == .cannotCreate)
        var over = try request(parts, Part(1, of: 3))
        over.options.overwrite = true
        #expect((await failed { try await run(over) })?.kind == .usage)
        // One file cannot be divided.
        var single = ConversionRequest(Fixtures.fp8Model, to: folder.file("one.h5"), layout: "bf16")
        single.part = try Part(1, of: 2)
        #expect((await failed { try await run(single) })?.kind == .usage)
    }

    @Test func partsInTheirOwnWords() throws {
        func part(_ argument: String, _ environment: [String: String] = [:]) -> String {
            do {
                let (part, origin) = try Launcher.part(argument, environment)
                return "\(part.number)/\(part.count)" + (origin.map { " \($0)" } ?? "")
            } catch { return "refused" }
        }
        #expect(part("3/16") == "3/16")
        for wrong in ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/2/3", "a/4", "01/4", "auto/", "/4", "1/99999999999999999999", "1/65537", "auto/0"] {
            #expect(part(wrong) == "refused", "\(wrong)")
        }
        let slurm = [
            "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "15",
            "SLURM_ARRAY_TASK_STEP": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1",
        ]
        #expect(part("auto", slurm) == "4/16 SLURM_ARRAY_TASK_ID=3")
        // Counted from 1, by steps, and in part again.
        #expect(part("auto", slurm.merging(["SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "16"]) { $1 }) == "3/16 SLURM_ARRAY_TASK_ID=3")
        let steps = ["SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"]
        #expect(part("auto", slurm.merging(steps) { $1 }) == "2/4 SLURM_ARRAY_TASK_ID=3")
        let again = ["SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "2"]
        #expect(part("auto", slurm.merging(again) { $1 }) == "refused")
        #expect(part("auto/16", slurm.merging(again) { $1 }) == "4/16 SLURM_ARRAY_TASK_ID=3")
        #expect(part("auto/3", slurm) == "refused")
        // A batch script of a job with eight tasks is rank 0 of no step.
        #expect(part("auto", ["SLURM_PROCID": "0", "SLURM_NTASKS": "8"]) == "refused")
        #expect(part("auto", ["SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"]) == "6/8 SLURM_PROCID=5")
        #expect(part("auto", ["JOB_COMPLETION_INDEX": "2"]) == "refused")
        #expect(part("auto/16", ["JOB_COMPLETION_INDEX": "2"]) == "3/16 JOB_COMPLETION_INDEX=2")
        #expect(part("auto", ["OMPI_COMM_WORLD_RANK": "7", "OMPI_COMM_WORLD_SIZE": "8"]) == "8/8 OMPI_COMM_WORLD_RANK=7")
        #expect(part("auto", ["PMI_RANK": "0", "PMI_SIZE": "2"]) == "1/2 PMI_RANK=0")
        #expect(part("auto", ["OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"]) == "refused")
        #expect(part("auto", ["AWS_BATCH_JOB_ARRAY_INDEX": "9", "AWS_BATCH_JOB_ARRAY_SIZE": "10"]) == "10/10 AWS_BATCH_JOB_ARRAY_INDEX=9")
        #expect(part("auto", ["SGE_TASK_ID": "2", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "4", "SGE_TASK_STEPSIZE": "1"]) == "2/4 SGE_TASK_ID=2")
        #expect(part("auto/4", ["SGE_TASK_ID": "4"]) == "4/4 SGE_TASK_ID=4")
        #expect(part("auto/4", ["SGE_TASK_ID": "undefined"]) == "refused")
        #expect(part("auto", ["CLOUD_RUN_TASK_INDEX": "x", "CLOUD_RUN_TASK_COUNT": "4"]) == "refused")
        // An array whose tasks have ranks is not guessed.
        #expect(part("auto", slurm.merging(["OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"]) { $1 }) == "refused")
    }

    @Test func jobFilesSayWhatTheyStart() throws {
        let words = ["recast", "convert", "it's here", "out", "--to", "bf16"]
        let settings = JobFile.Settings(parts: 3, memory: 1 << 30)
        let slurm = try JobFile.slurm.text(convert: words, finish: ["recast", "finish", "out"], settings)
        #expect(slurm.contains("\nrecast convert 'it'\\''s here' out --to bf16 --part auto/3 &\n"))
        #expect(slurm.contains("#SBATCH --array=0-2\n#SBATCH --mem=1536M\n"))
        // By its job alone, the task that has the array's own number is the whole array.
        #expect(slurm.contains("scontrol requeue \"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\""))
        #expect(failure { _ = try JobFile.kubernetes.text(convert: words, finish: [], settings) }?.kind == .usage)
        let pods = JobFile.Settings(parts: 3, image: "recast:1", claim: "checkpoints")
        let kubernetes = try JobFile.kubernetes.text(convert: words, finish: ["recast", "finish", "out"], pods)
        #expect(kubernetes.contains(#"command: ["recast", "convert", "it's here", "out", "--to", "bf16", "--part", "auto/3"]"#))
        #expect(kubernetes.contains("completions: 3\n") && kubernetes.contains(#"claimName: "checkpoints""#))
        #expect(failure { _ = try JobFile.mpi.text(convert: words, finish: [], JobFile.Settings(parts: 0)) }?.kind == .usage)
    }

    @Test func nearNamesAreSaid() {
        let unknown = failure { try LayoutChoice.check(target: "int4") { .usage($0) } }
        #expect(unknown?.description.contains("did you mean int4-g") == true)
        #expect(failure { try LayoutChoice.check(target: "fp8_blok") { .usage($0) } }?.description.contains("fp8-block") == true)
        #expect(failure { try LayoutChoice.check(target: "Q4_k_m") { .usage($0) } } == nil)
        #expect(failure { try LayoutChoice.check(target: "zzzzzzzz") { .usage($0) } }?.description.contains("known are keep") == true)
    }
}
