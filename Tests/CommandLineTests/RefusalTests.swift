import Foundation
import Recast
import TestSupport
import Testing

/// What can be refused is refused before the work, and before anything is touched.
@Suite struct RefusalTests {
    static let tokens = Fixtures.path("tokens-short.json")

    /// Commands that would find out after minutes or days, and what they say at once instead.
    static let late: [(arguments: [String], status: Int32, word: String)] = [
        (["verify", "MODEL", "MODEL", "--weights-only", "--report", "FOLDER/none/r.html"], 73, "none"),
        (["verify", "MODEL", "MODEL", "--tokens", "TOKENS", "--save-reference", "FOLDER/none/r.safetensors"], 73, "none"),
        (["verify", "MODEL", "MODEL", "--weights-only", "--report", "FOLDER.html"], 0, ""),
        (["forward", "MODEL", "--tokens", "TOKENS", "--logits", "FOLDER/none/l.safetensors"], 73, "none"),
        (["forward", "MODEL", "--tokens", "TOKENS", "--logits", "FOLDER"], 73, "directory"),
        (["calibrate", "MODEL", "--tokens", "TOKENS", "--output", "FOLDER/none/s.safetensors"], 73, "none"),
        (["sweep", "MODEL", "--layouts", "int4-g32", "--tokens", "TOKENS", "--report", "FOLDER/none/s.html"], 73, "none"),
        (["sweep", "MODEL", "--layouts", "int4-g32,awq-g32", "--bits", "4.5", "--tokens", "TOKENS", "--report", "FOLDER/s.html"], 64, "together"),
        (["sweep", "MODEL", "--layouts", "int4-g32,fp8-block", "--bits", "5", "--tokens", "TOKENS", "--report", "FOLDER/s.html"], 64, "together"),
        (["sweep", "MODEL", "--layouts", "int4-g32,nonsense", "--tokens", "TOKENS", "--report", "FOLDER/s.html"], 64, "nonsense"),
        (["convert", "MODEL", "FOLDER/x.h5", "--to", "int4-g32", "--shard-size", "1MB"], 64, "shard-size"),
        (["convert", "MODEL", "FOLDER/o", "--to", "gptq", "--recipe", "RECIPE"], 64, "together"),
        (["convert", "MODEL", "FOLDER/o", "--to", "int4-g32", "--quantizer", "gptq"], 64, "tokens"),
    ]

    @Test(arguments: late.indices) func whatCannotEndWellDoesNotBegin(_ index: Int) throws {
        let folder = try TemporaryDirectory()
        let (arguments, status, word) = Self.late[index]
        try Data("rules: [{match: '*.experts.*', to: fp8-block}]".utf8).write(to: URL(fileURLWithPath: folder.path + ".yaml"))
        defer { for ending in [".yaml", ".html"] { try? FileTree.remove(folder.path + ending) } }
        let filled = arguments.map {
            $0.replacing("MODEL", with: Fixtures.fp8Model).replacing("TOKENS", with: Self.tokens).replacing("FOLDER", with: folder.path)
                .replacing("RECIPE", with: folder.path + ".yaml")
        }
        let started = Date()
        let result = try Subprocess(RecastBinary.path, filled)
        #expect(result.status == status && (word.isEmpty || (result.errors + result.output).contains(word)), "\(result.status) \(result.errors)")
        if status != 0 {
            // Measuring the small model takes longer than refusing it; at full size it is days.
            #expect(Date().timeIntervalSince(started) < 20)
            #expect(try FileTree.list(folder.path).isEmpty, "nothing was begun")
        }
    }

    @Test(arguments: [[], ["--overwrite"], ["--resume"]]) func aDestinationInUseIsLeftAlone(_ options: [String]) throws {
        let folder = try TemporaryDirectory()
        let out = folder.file("out")
        // A run that was stopped, and then one that holds its directory.
        #expect(try interruptedConversion(Fixtures.fp8Model, out, to: "int4-g32", afterJournalLines: 40))
        let before = try directoryContents(out)
        let holder = try PositionedFile.openForWriting(out + "/.recast/lock")
        #expect(try holder.tryLock() == .taken)
        for target in ["int4-g32", "bf16"] {
            let second = try Subprocess(RecastBinary.path, ["convert", Fixtures.fp8Model, out, "--to", target] + options)
            #expect(second.status == 73 && second.errors.contains("another recast"), "\(second.status) \(second.errors)")
            #expect(try directoryContents(out) == before)
        }
        holder.unlock()
        let last = try Subprocess(RecastBinary.path, ["convert", Fixtures.fp8Model, out, "--to", "int4-g32"] + options)
        #expect(last.status == 0, "\(last.errors)")
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "int4-g32")
        #expect(try directoryContents(out) == directoryContents(folder.file("whole")))
    }

    /// A lease of a process that is gone is nobody's; one of a living process is.
    @Test func anUnfinishedRunOfAnotherConversionIsNeverMixedIn() throws {
        let folder = try TemporaryDirectory()
        let out = folder.file("out")
        #expect(try interruptedConversion(Fixtures.fp8Model, out, to: "int4-g32", afterJournalLines: 40))
        let other = try Subprocess(RecastBinary.path, ["convert", Fixtures.fp8Model, out, "--to", "bf16"])
        #expect(other.status == 73)
        let replaced = try Subprocess(RecastBinary.path, ["convert", Fixtures.fp8Model, out, "--to", "bf16", "--overwrite"])
        #expect(replaced.status == 0, "\(replaced.errors)")
        try convert(Fixtures.fp8Model, folder.file("whole"), to: "bf16")
        #expect(try directoryContents(out) == directoryContents(folder.file("whole")))
    }

    @Test func aFinishedRunIsOnlyFinishedWithItsSizes() throws {
        let folder = try TemporaryDirectory()
        for container in ["safetensors", "zstd"] {
            let out = folder.file(container)
            let arguments = ["convert", Fixtures.fp8Model, out, "--to", "int4-g32", "--container", container]
            #expect(try Subprocess(RecastBinary.path, arguments).status == 0)
            let again = try Subprocess(RecastBinary.path, arguments + ["--resume", "--json"])
            let json = try JSONValue(parsing: Array(again.output.utf8))
            #expect(again.status == 0 && json["finished_before"]?.bool == true && json["claim"]?.string?.contains("not read again") == true)
            let name = try #require(try FileTree.list(out).first { $0.hasPrefix("model-00001") })
            let file = try PositionedFile.openForWriting(out + "/" + name)
            try file.resize(to: try file.size() - 1)
            #expect(try Subprocess(RecastBinary.path, arguments + ["--resume"]).status == 73)
        }
    }

    @Test func sideFilesAreStreamedAndNamedOnes() throws {
        let folder = try TemporaryDirectory()
        try FileManager.default.copyItem(atPath: Fixtures.fp8Model, toPath: folder.file("m"))
        let large = try PositionedFile.openForWriting(folder.file("m/vocabulary.txt"))
        try large.resize(to: 300 << 20)
        let result = try Subprocess(
            RecastBinary.path, ["convert", folder.file("m"), folder.file("out"), "--to", "bf16", "--memory", "64MiB", "--json"])
        #expect(result.status == 0, "\(result.errors)")
        let json = try JSONValue(parsing: Array(result.output.utf8))
        #expect(json["audit"]?["differences"]?.int == 0)
        let size = if case .file(let size)? = try FileTree.entry(folder.file("out/vocabulary.txt")) { size } else { 0 }
        #expect(size == 300 << 20)
    }
}
