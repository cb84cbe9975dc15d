import Foundation
import Recast
import TestSupport
import Testing

/// The built `recast`, driven from outside.
enum RecastBinary {
    /// Beside the test runner.
    static let path: String = {
        let runner = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
        var folder = runner.deletingLastPathComponent()
        while folder.path != "/" {
            let candidate = folder.appendingPathComponent("recast").path
            if FileManager.default.isExecutableFile(atPath: candidate) && !candidate.hasSuffix(".xctest") { return candidate }
            folder.deleteLastPathComponent()
        }
        return "recast"
    }()

    static func run(_ arguments: String..., environment: [String: String] = [:]) throws -> Subprocess {
        try Subprocess(path, arguments, environment: environment)
    }
}

@Suite(.serialized) struct CommandLineTests {
    @Test func quantizersAskForWhatTheyNeed() throws {
        let folder = try TemporaryDirectory()
        let tokens = Fixtures.path("tokens-short.json")
        for (arguments, words) in [
            (["--quantizer", "gptq"], "--tokens"), (["--quantizer", "imatrix"], "--statistics"), (["--tokens", tokens], "imatrix, gptq and awq"),
            (["--quantizer", "best"], "--quantizer"), (["--quantizer", "gptq", "--tokens", tokens, "--damping", "2"], "--damping"),
        ] {
            let run = try Subprocess(RecastBinary.path, ["convert", Fixtures.fp8Model, folder.file("out"), "--to", "int4-g128"] + arguments)
            #expect(run.status == 64 && run.errors.contains(words), "\(arguments): \(run.status) \(run.errors)")
        }
        let refused = try RecastBinary.run(
            "convert", Fixtures.fp8Model, folder.file("out"), "--to", "int4-g128", "--quantizer", "gptq", "--tokens", tokens, "--memory", "1MiB")
        #expect(refused.status == 64 && refused.errors.contains("--memory"), "\(refused.errors)")
        let statistics = try RecastBinary.run(
            "convert", Fixtures.fp8Model, folder.file("out"), "--to", "int4-g128", "--quantizer", "imatrix", "--statistics", tokens)
        #expect(statistics.status == 65, "\(statistics.errors)")
        let made = try RecastBinary.run("calibrate", Fixtures.fp8Model, "--tokens", tokens, "--output", folder.file("s"))
        #expect(made.status == 0 && made.output.contains("184 weights"), "\(made.output)\(made.errors)")
        let weighted = try RecastBinary.run(
            "convert", Fixtures.fp8Model, folder.file("out"), "--to", "int4-g128", "--quantizer", "imatrix", "--statistics", folder.file("s"))
        #expect(weighted.status == 0, "\(weighted.errors)")
        for (arguments, words) in [
            (["--layouts", "int4-g128"], "--tokens"), (["--tokens", tokens, "--report", "a.html"], "--layouts"),
            (["--layouts", "int4-g128", "--tokens", tokens, "--report", "a.txt"], ".html"),
            (["--layouts", "int4-g128", "--tokens", tokens, "--report", "a.html", "--bits", "4", "--max-kld", "1"], "exclude"),
            (["--layouts", "int4-g128", "--quantizers", "awq", "--tokens", tokens, "--report", folder.file("a.html")], "--tokens"),
            (["--layouts", "int5", "--tokens", tokens, "--report", folder.file("a.html")], "unknown layout"),
        ] {
            let run = try Subprocess(RecastBinary.path, ["sweep", Fixtures.fp8Model] + arguments)
            #expect(run.status == 64 && run.errors.contains(words), "\(arguments): \(run.status) \(run.errors)")
        }
        let sweep = try RecastBinary.run(
            "sweep", Fixtures.fp8Model, "--layouts", "int4-g128,int8-channel", "--tokens", tokens, "--report", folder.file("a.html"), "--json")
        let document = try JSONValue(parsing: Array(sweep.output.utf8))
        #expect(sweep.status == 0 && document["schema"]?.int == 1 && document["points"]?.array?.count == 2, "\(sweep.errors)")
        for ending in ["html", "json", "csv"] { #expect(FileManager.default.fileExists(atPath: folder.file("a.\(ending)"))) }
    }

    @Test func convertInspectVerify() throws {
        let folder = try TemporaryDirectory()
        let convert = try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("out"), "--to", "bf16", "--json")
        #expect(convert.status == 0 && convert.errors.isEmpty, "\(convert.errors)")
        let report = try JSONValue(parsing: Array(convert.output.utf8))
        #expect(report["schema"]?.int == 1)
        for (key, value) in [
            "tensors": 221, "values": 12_554_736, "passthrough": 37, "repacked": 0, "dequantized": 184, "quantized": 0, "dtype_changes": 0,
            "differences": 0,
        ] {
            #expect(report["audit"]?[key]?.int == value, "\(key)")
        }
        for key in ["bytes_read", "bytes_written", "seconds", "peak_rss"] { #expect((report[key]?.double ?? 0) > 0, "\(key)") }
        let inspect = try RecastBinary.run("inspect", folder.file("out"), "--json")
        #expect(try JSONValue(parsing: Array(inspect.output.utf8))["parameters"]?.int == 12_554_736)
        let text = try RecastBinary.run("inspect", Fixtures.fp8Model)
        for word in ["DeepseekV3ForCausalLM", "12.6 M parameters", "fp8-block", "model.layers.*.mlp.experts.*.down_proj.weight"] {
            #expect(text.output.contains(word), "\(word)")
        }
        let list = try RecastBinary.run("inspect", Fixtures.fp8Model, "--tensors", "*.experts.7.up_proj*")
        #expect(list.output.split(separator: "\n").count == 4)
        let verify = try RecastBinary.run("verify", Fixtures.fp8Model, folder.file("out"), "--exact", "--json")
        #expect(verify.status == 0)
        let verdict = try JSONValue(parsing: Array(verify.output.utf8))
        #expect(verdict["passed"]?.bool == true && verdict["weights"]?["identical"]?.int == 221 && verdict["schema"]?.int == 1)
    }

    @Test func doctorAndVersion() throws {
        let folder = try TemporaryDirectory()
        let version = try JSONValue(parsing: Array(try RecastBinary.run("version", "--json").output.utf8))
        let plain = try RecastBinary.run("--version").output
        #expect(version["version"]?.string.map { $0 + "\n" } == plain)
        #expect(version["kernels"]?["available"]?.array?.contains(.string("plain")) == true)
        let doctor = try RecastBinary.run("doctor", folder.file("not/yet/there"), "--json")
        #expect(doctor.status == 0)
        let found = try JSONValue(parsing: Array(doctor.output.utf8))
        #expect(found["schema"]?.int == 1)
        #expect(found["file_system"]?["path"]?.string == folder.path)
        #expect(found["file_system"]?["fsync"]?.bool != nil && found["file_system"]?["locks"]?.bool != nil)
        #expect((found["processors"]?["usable"]?.int ?? 0) >= 1)
        #expect((found["memory"]?["machine"]?.int ?? 0) > 1 << 20)
        // What was tried there is gone.
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
        let refused = try RecastBinary.run("doctor", "/proc/none")
        #expect(refused.status == 73 && refused.errors.contains("/proc"))
        let text = try RecastBinary.run("doctor", folder.path).output
        #expect(text.contains("file system") && text.contains(recastVersion))
    }

    /// Every schema is listed, is one object, and describes itself. What documents hold is held against them by json_schemas.py.
    @Test func schemasAreListedAndPrinted() throws {
        let list = try RecastBinary.run("schema")
        let names = list.output.split(separator: "\n").compactMap { $0.split(separator: " ").first.map(String.init) }
        #expect(list.status == 0 && names.contains("convert") && names.contains("manifest") && names.count == Set(names).count)
        for name in names {
            let schema = try JSONValue(parsing: Array(try RecastBinary.run("schema", name).output.utf8))
            #expect(schema["$schema"]?.string?.contains("2020-12") == true && schema["description"]?.string?.isEmpty == false, "\(name)")
        }
        #expect(try RecastBinary.run("schema", "nothing").status == 64)
    }

    @Test func theMatrixInTheREADMEIsTheCommands() throws {
        let table = try RecastBinary.run("layouts").output
        let readme = try String(contentsOfFile: Fixtures.directory + "/../../README.md", encoding: .utf8)
        #expect(table.split(separator: "\n").count > 20 && readme.contains(table))
        let architectures = try RecastBinary.run("architectures").output
        #expect(architectures.split(separator: "\n").count == Architecture.known.count + 2)
        #expect(readme.contains(architectures), "README's table of architectures is not what `recast architectures` prints")
        let json = try JSONValue(parsing: Array(try RecastBinary.run("layouts", "--json").output.utf8))
        #expect(json["layouts"]?.array?.count == table.split(separator: "\n").count - 2)
    }

    /// A job file says once how much of the machine all commands may take, and progress is told as it is read.
    @Test func theEnvironmentSpeaksForOptions() throws {
        let folder = try TemporaryDirectory()
        let tokens = Fixtures.path("tokens-short.json")
        func gptq(_ more: String..., environment: [String: String] = [:]) throws -> Subprocess {
            let fixed = [
                "convert", Fixtures.bf16Model, folder.file("out"), "--to", "int4-g128", "--quantizer", "gptq", "--tokens", tokens, "--overwrite",
            ]
            return try Subprocess(RecastBinary.path, fixed + more, environment: environment)
        }
        let small = try gptq(environment: ["RECAST_MEMORY": "1MiB"])
        #expect(small.status == 64 && small.errors.contains("--memory"), "\(small.errors)")
        for (name, value) in [("RECAST_MEMORY", "lots"), ("RECAST_JOBS", "0"), ("RECAST_JOBS", "many")] {
            let run = try gptq(environment: [name: value])
            #expect(run.status == 64 && run.errors.contains(name), "\(run.errors)")
        }
        // The option has the last word.
        let told = try gptq("--memory", "2GiB", "--progress", "json", environment: ["RECAST_MEMORY": "1MiB", "RECAST_JOBS": "2"])
        let lines = told.errors.split(separator: "\n").filter { $0.hasPrefix("{") }
        let events = try lines.map { try JSONValue(parsing: Array($0.utf8)) }
        #expect(told.status == 0 && events.contains { $0["event"]?.string == "step" && $0["text"]?.string?.contains("calibrating") == true })
        #expect(events.allSatisfy { $0["schema"]?.int == 1 && $0["seconds"]?.double ?? -1 >= 0 })
        let silent = try gptq("--progress", "none")
        #expect(silent.status == 0 && !silent.errors.contains("calibrating"), "\(silent.errors)")
        let named = try RecastBinary.run("convert", Fixtures.bf16Model, folder.file("out.safetensors"), "--to", "bf16")
        #expect(named.status == 64 && named.errors.contains("name of one file"), "\(named.errors)")
    }

    @Test func dryRunWritesNothing() throws {
        let folder = try TemporaryDirectory()
        let result = try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("out"), "--to", "int4-g128", "--dry-run", "--json")
        #expect(result.status == 0 && !FileManager.default.fileExists(atPath: folder.file("out")))
        #expect(try JSONValue(parsing: Array(result.output.utf8))["weights"]?.int == 221)
    }

    @Test func exitCodesAreSysexits() throws {
        let folder = try TemporaryDirectory()
        func status(_ arguments: String...) throws -> Int32 {
            let result = try Subprocess(RecastBinary.path, arguments)
            #expect([0, 1].contains(result.status) || !result.errors.isEmpty)
            #expect(!result.errors.contains("Fatal error") && !result.errors.contains("Stack dump"))
            return result.status
        }
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "int5") == 64)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a")) == 64)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16", "--jobs", "0") == 64)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16", "--memory", "lots") == 64)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16", "--resume", "--overwrite") == 64)
        #expect(try status("verify", Fixtures.fp8Model, Fixtures.fp8Model) == 0)
        #expect(try status("verify", Fixtures.fp8Model, Fixtures.fp8Model, "--min-top1", "1") == 64)
        #expect(try status("convert", folder.file("nothing"), folder.file("a"), "--to", "bf16") == 66)
        #expect(try status("inspect", folder.file("nothing")) == 66)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16", "--recipe", folder.file("none.yaml")) == 66)
        #expect(try status("convert", Fixtures.fp8Model, "/dev/null/out", "--to", "bf16") == 73)
        #expect(try status("convert", Fixtures.fp8Model, Fixtures.fp8Model, "--to", "bf16") == 73)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16") == 0)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16") == 73)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("a"), "--to", "bf16", "--resume") == 0)
        #expect(try status("convert", Fixtures.fp8Model, folder.file("b"), "--to", "int8-channel", "--quiet") == 0)
        #expect(try status("verify", Fixtures.fp8Model, folder.file("b"), "--exact") == 1)
        #expect(try status("verify", Fixtures.fp8Model, folder.file("b"), "--min-sqnr", "90") == 1)
        #expect(try status("verify", Fixtures.fp8Model, folder.file("b"), "--min-sqnr", "20") == 0)
    }

    /// A truncated shard, and one with a flipped bit in its header.
    @Test func damagedShardsAreBadDataAndLeaveNothing() throws {
        let folder = try TemporaryDirectory()
        for (index, damage) in ["truncated", "flipped"].enumerated() {
            let source = folder.file("source-\(index)")
            try FileManager.default.copyItem(atPath: Fixtures.fp8Model, toPath: source)
            let shard = source + "/model-00003-of-000004.safetensors"
            var bytes = try Data(contentsOf: URL(fileURLWithPath: shard))
            if damage == "truncated" { bytes = bytes.dropLast(1000) } else { bytes[40] ^= 0x80 }
            try bytes.write(to: URL(fileURLWithPath: shard))
            let result = try RecastBinary.run("convert", source, folder.file("out-\(index)"), "--to", "bf16")
            #expect(result.status == 65 && result.errors.contains("model-00003-of-000004.safetensors"), "\(result.errors)")
            #expect(result.errors.split(separator: "\n").count == 1)
            #expect(!FileManager.default.fileExists(atPath: folder.file("out-\(index)")))
        }
    }

    /// 200 kills at random instants, each followed by the same command; the result is always the same.
    @Test func killedRunsEndInTheSameBytes() throws {
        let folder = try TemporaryDirectory()
        #expect(try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("whole"), "--to", "int4-g32", "--quiet").status == 0)
        let whole = try directoryContents(folder.file("whole"))
        var random = SeededGenerator(2026)
        var kills = 0, rounds = 0, longest = 0.15
        while kills < 200 {
            rounds += 1
            try #require(rounds < 2000, "the runs end before they can be killed")
            let target = folder.file("run")
            try? FileManager.default.removeItem(atPath: target)
            var finished = false
            while !finished {
                let process = Process()
                process.executableURL = URL(fileURLWithPath: RecastBinary.path)
                process.arguments = [
                    "convert", Fixtures.fp8Model, target, "--to", "int4-g32", "--quiet", "--jobs", "\(Int.random(in: 1...4, using: &random))",
                ]
                process.standardOutput = FileHandle.nullDevice
                process.standardError = FileHandle.nullDevice
                try process.run()
                usleep(UInt32.random(in: 0...UInt32(longest * 1e6), using: &random))
                kill(process.processIdentifier, SIGKILL)
                process.waitUntilExit()
                if process.terminationReason == .uncaughtSignal {
                    kills += 1
                } else {
                    // 73 when the kill before came after the last step: the conversion is complete and is not done again.
                    #expect(process.terminationStatus == 0 || process.terminationStatus == 73)
                    finished = true
                    longest = max(0.02, longest * 0.95)
                }
            }
            #expect(try directoryContents(target) == whole)
        }
    }

    /// Kills a command at random instants until it ends by itself.
    /// - Returns: how often it was killed.
    private func runWithKills(_ arguments: [String], seconds: Double, _ random: inout SeededGenerator) throws -> Int {
        for kills in 0..<200 {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: RecastBinary.path)
            process.arguments = arguments
            process.standardOutput = FileHandle.nullDevice
            process.standardError = FileHandle.nullDevice
            try process.run()
            // Longer from time to time: a run that is slow on this machine must come to an end.
            usleep(UInt32.random(in: 0...UInt32(seconds * (1 + Double(kills) / 5) * 1e6), using: &random))
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
            if process.terminationReason != .uncaughtSignal {
                #expect(process.terminationStatus == 0 || process.terminationStatus == 73)
                return kills
            }
        }
        throw CancellationError()
    }

    @Test func killedCalibrationsAndSweepsEndInTheSameResult() throws {
        let folder = try TemporaryDirectory()
        var random = SeededGenerator(31)
        let calibration = try TokenBatch(reading: Fixtures.path("tokens-calibration.json")).sequences(0..<8)
        let text = "{\"sequences\": [" + calibration.ranges.map { "\(Array(calibration.all[$0]))" }.joined(separator: ",") + "]}"
        try text.write(toFile: folder.file("tokens"), atomically: true, encoding: .utf8)
        var kills = 0
        for quantizer in ["gptq", "awq"] {
            let command = ["convert", Fixtures.fp8Model]
            let options = ["--to", "int3-g128-asym", "--quantizer", quantizer, "--tokens", folder.file("tokens"), "--quiet"]
            let whole = try Subprocess(RecastBinary.path, command + [folder.file("whole-" + quantizer)] + options)
            #expect(whole.status == 0, "\(whole.errors)")
            kills += try runWithKills(command + [folder.file(quantizer)] + options, seconds: 1, &random)
            #expect(try directoryContents(folder.file(quantizer)) == directoryContents(folder.file("whole-" + quantizer)))
        }
        func sweep(_ name: String) -> [String] {
            [
                "sweep", Fixtures.fp8Model, "--layouts", "int2-g128-asym,int4-g128-asym,int8-g128-asym", "--quantizers", "rtn", "--bits", "4",
                "--tokens",
                folder.file("tokens"), "--report", folder.file(name + ".html"), "--quiet",
            ]
        }
        let whole = try Subprocess(RecastBinary.path, sweep("whole"))
        #expect(whole.status == 0, "\(whole.errors)")
        kills += try runWithKills(sweep("killed"), seconds: 3, &random)
        for ending in ["csv", "json", "recipe.yaml"] {
            let texts = try ["whole", "killed"].map {
                try String(contentsOfFile: folder.file("\($0).\(ending)"), encoding: .utf8).replacing($0, with: "")
            }
            #expect(texts[0] == texts[1])
        }
        #expect(kills > 5)
    }

    @Test func terminationIsExit75AndResumable() throws {
        let folder = try TemporaryDirectory()
        #expect(try RecastBinary.run("convert", Fixtures.bf16Model, folder.file("whole"), "--to", "int4-g32", "--quiet").status == 0)
        let whole = try directoryContents(folder.file("whole"))
        var stopped = 0
        for delay in stride(from: 5, through: 100, by: 3) where stopped < 3 {
            let target = folder.file("run")
            try? FileManager.default.removeItem(atPath: target)
            let process = Process()
            process.executableURL = URL(fileURLWithPath: RecastBinary.path)
            process.arguments = ["convert", Fixtures.bf16Model, target, "--to", "int4-g32", "--quiet", "--jobs", "1"]
            process.standardError = FileHandle.nullDevice
            process.standardOutput = FileHandle.nullDevice
            try process.run()
            usleep(UInt32(delay * 1000))
            kill(process.processIdentifier, delay % 2 == 0 ? SIGTERM : SIGINT)
            process.waitUntilExit()
            if process.terminationReason == .exit, process.terminationStatus == 75 {
                stopped += 1
                #expect(try RecastBinary.run("convert", Fixtures.bf16Model, target, "--to", "int4-g32", "--quiet").status == 0)
                #expect(try directoryContents(target) == whole)
            }
        }
        #expect(stopped > 0)
    }

    /// A limit on file sizes fails a write in the middle of a run, as a full disk does.
    @Test func aFailingWriteIsExit74AndResumable() throws {
        let folder = try TemporaryDirectory()
        let command = "trap '' XFSZ; ulimit -f 3000; exec \"$0\" convert \"$1\" \"$2\" --to bf16 --quiet"
        let result = try Subprocess("/bin/bash", ["-c", command, RecastBinary.path, Fixtures.fp8Model, folder.file("out")])
        #expect(
            result.status == 74 && result.errors.contains("cannot") && result.errors.split(separator: "\n").count == 1,
            "\(result.status) \(result.errors)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.file("out")).allSatisfy { $0.hasPrefix(".") })
        #expect(try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("out"), "--to", "bf16", "--quiet").status == 0)
        #expect(try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("whole"), "--to", "bf16", "--quiet").status == 0)
        #expect(try directoryContents(folder.file("out")) == directoryContents(folder.file("whole")))
    }

    /// Needs the right to mount; elsewhere the write limit above stands for it.
    @Test func aDiskTooSmallIsRefusedBeforeTheStart() throws {
        let folder = try TemporaryDirectory()
        try FileManager.default.createDirectory(atPath: folder.file("small"), withIntermediateDirectories: true)
        guard (try? Subprocess("/usr/bin/env", ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder.file("small")]))?.status == 0 else { return }
        defer { _ = try? Subprocess("/usr/bin/env", ["umount", folder.file("small")]) }
        let result = try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("small/out"), "--to", "bf16", "--quiet")
        #expect(result.status == 74 && result.errors.contains("free"), "\(result.errors)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.file("small")).isEmpty)
    }

    @Test func everyKernelLevelWritesTheSameBytes() throws {
        let folder = try TemporaryDirectory()
        let targets = [
            "bf16", "fp8-block-ue8m0", "fp8-channel", "int4-g32", "int4-g128-asym", "int8-channel", "f16", "awq", "gptq-3bit", "gptq-asym",
            "mlx-4bit",
            "mlx-mxfp4", "mxfp4", "nvfp4", "w4afp8",
        ]
        for target in targets {
            var reference: [String: Data]?
            for level in KernelLevel.available {
                let out = folder.file("\(target)-\(level)")
                #expect(
                    try RecastBinary.run("convert", Fixtures.fp8Model, out, "--to", target, "--quiet", environment: ["RECAST_KERNELS": "\(level)"])
                        .status == 0)
                let contents = try directoryContents(out)
                #expect(reference == nil || contents == reference, "\(target) at \(level)")
                reference = contents
            }
        }
    }

    /// The digest of the logits is part of the promise: it must not change with jobs, instruction set, memory or machine.
    @Test func forwardWritesTheSameLogitsEverywhere() throws {
        let folder = try TemporaryDirectory()
        let sequence = Array("The quality of mercy is not strain'd".utf8).map { String($0) }.joined(separator: ",")
        try Data("{\"sequences\": [[256,\(sequence)],[1]]}".utf8).write(to: URL(fileURLWithPath: folder.file("tokens.json")))
        var digests = Set<String>()
        for level in KernelLevel.available {
            // Without vector registers once is enough: fused multiply-adds one by one take their time.
            for (jobs, memory) in level == .plain ? [("2", "2GiB")] : [("1", "2GiB"), ("2", "64MiB"), ("7", "16MiB")] {
                let out = folder.file("logits.safetensors")
                let result = try RecastBinary.run(
                    "forward", Fixtures.fp8Model, "--tokens", folder.file("tokens.json"), "--logits", out, "--jobs", jobs, "--memory", memory,
                    environment: ["RECAST_KERNELS": "\(level)"])
                #expect(result.status == 0, "\(result.errors)")
                let tensors = try storedTensors(folder.path)
                #expect(tensors["logits"]?.shape == [2, 37, 384])
                digests.insert(tensors["logits"]?.digest ?? "")
            }
        }
        #expect(digests == ["315a1e7db22e7f57d61cc198479f7cb630707d6f20d5b0d1216fd4a484b9e848"])
    }

    @Test func verifyRunsBothSidesAndKeepsItsBounds() throws {
        let folder = try TemporaryDirectory()
        #expect(try RecastBinary.run("convert", Fixtures.bf16Model, folder.file("int4"), "--to", "int4-g32", "--quiet").status == 0)
        let tokens = Fixtures.path("tokens-short.json")
        let good = try RecastBinary.run(
            "verify", Fixtures.bf16Model, folder.file("int4"), "--tokens", tokens, "--json", "--max-kld", "0.03", "--min-top1", "0.95",
            "--max-perplexity-ratio", "1.015")
        #expect(good.status == 0, "\(good.errors)")
        let json = try JSONValue(parsing: Array(good.output.utf8))
        #expect(json["schema"]?.int == 1 && json["passed"]?.bool == true && json["forward"]?["layers"]?.array?.count == 4)
        let mean = try #require(json["forward"]?["kld"]?["mean"]?.double), floor = try #require(json["forward"]?["noise_floor"]?["kld_mean"]?.double)
        #expect(mean > floor && floor > 0 && mean < 0.01)
        for (option, bound, name) in [
            ("--max-kld", "0.0001", "mean KLD"), ("--min-top1", "0.999", "top-1"), ("--max-perplexity-ratio", "0.9", "perplexity ratio"),
        ] {
            let bad = try RecastBinary.run("verify", Fixtures.bf16Model, folder.file("int4"), "--tokens", tokens, "--no-noise-floor", option, bound)
            #expect(bad.status == 1 && bad.output.contains("FAILED") && bad.output.contains(name), "\(bad.output)")
        }
        #expect(try RecastBinary.run("verify", Fixtures.bf16Model, folder.file("int4"), "--max-kld", "1").status == 64)
    }

    @Test func reportsAreWritten() throws {
        let folder = try TemporaryDirectory()
        #expect(try RecastBinary.run("convert", Fixtures.fp8Model, folder.file("int8"), "--to", "int8-channel", "--quiet").status == 0)
        let result = try RecastBinary.run(
            "verify", Fixtures.fp8Model, folder.file("int8"), "--tokens", Fixtures.path("tokens-short.json"), "--no-noise-floor", "--max-kld", "0",
            "--report", folder.file("r.json"), "--report", folder.file("r.xml"), "--json")
        #expect(result.status == 1)
        #expect(try String(contentsOfFile: folder.file("r.json"), encoding: .utf8) == result.output)
        let xml = try String(contentsOfFile: folder.file("r.xml"), encoding: .utf8)
        func count(_ text: String) -> Int { xml.components(separatedBy: text).count - 1 }
        #expect(count("<testcase ") == 6 && count("</testcase>") == 6 && count("<failure message=\"mean KLD") == 1 && count("failures=\"1\"") == 2)
        #expect(try RecastBinary.run("verify", Fixtures.fp8Model, Fixtures.fp8Model, "--report", folder.file("r.pdf")).status == 64)
    }

    @Test func badTokensAreRefused() throws {
        let folder = try TemporaryDirectory()
        for (text, status, word) in [
            ("{\"sequences\": [[1, 384]]}", 65, "vocabulary"), ("{\"sequences\": []}", 65, "no tokens"), ("{\"x\": 1}", 65, "sequences"),
            ("{", 65, "malformed"), ("{\"sequences\": [[-1]]}", 65, "malformed"),
        ] {
            try Data(text.utf8).write(to: URL(fileURLWithPath: folder.file("t.json")))
            let result = try RecastBinary.run(
                "forward", Fixtures.fp8Model, "--tokens", folder.file("t.json"), "--logits", folder.file("l.safetensors"))
            #expect(result.status == Int32(status) && result.errors.contains(word), "\(text): \(result.errors)")
            #expect(!FileManager.default.fileExists(atPath: folder.file("l.safetensors")))
        }
    }

    @Test func refusalsNameTheCulpritBeforeAnythingIsWritten() throws {
        let folder = try TemporaryDirectory()
        var number = 0
        func refusal(_ change: (inout CheckpointBuilder) -> Void, recipe: String? = nil) throws -> Subprocess {
            number += 1
            var builder = SyntheticModel().build()
            change(&builder)
            try builder.write(to: folder.file("m\(number)"))
            var arguments = ["convert", folder.file("m\(number)"), folder.file("o\(number)"), "--to", "bf16"]
            if let recipe {
                try Data(recipe.utf8).write(to: URL(fileURLWithPath: folder.file("r.yaml")))
                arguments += ["--recipe", folder.file("r.yaml")]
            }
            let result = try Subprocess(RecastBinary.path, arguments)
            if result.status != 0 { #expect(!FileManager.default.fileExists(atPath: folder.file("o\(number)"))) }
            return result
        }
        let weight = "model.layers.1.mlp.experts.3.up_proj"
        let missing = try refusal { $0[weight + ".weight_scale_inv"] = nil }
        #expect(missing.status == 65 && missing.errors.contains(weight + ".weight"))
        let renamed = try refusal { $0.rename(weight + ".weight_scale_inv", to: weight + ".scales") }
        #expect(renamed.status == 65 && renamed.errors.contains(weight + ".scales"))
        let shape = try refusal { $0[weight + ".weight_scale_inv"] = .init(type: .f32, shape: [1], bytes: [0, 0, 0, 0]) }
        #expect(shape.status == 65 && shape.errors.contains(weight))
        let typo = try refusal({ _ in }, recipe: "rules: [{match: '*.exprets.*', to: bf16}]")
        #expect(typo.status == 64 && typo.errors.contains("*.exprets.*"))
        let swapped = try refusal { $0[weight + ".weight_scale_inv"]?.bytes = (0..<3).flatMap { _ in CheckpointBuilder.bytes(Float(2).bitPattern) } }
        #expect(swapped.status == 0 && swapped.errors.contains(weight + ".weight_scale_inv"), "\(swapped.errors)")
    }
}
