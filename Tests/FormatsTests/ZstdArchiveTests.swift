import Foundation
import Recast
import TestSupport
import Testing

@Suite struct ZstdArchiveTests {
    /// A safetensors file with one tensor of each kind of size and type, and a large one.
    func source(_ folder: TemporaryDirectory, large: Int = 0) throws -> String {
        var builder = CheckpointBuilder()
        var random = SeededGenerator(11)
        func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) } }
        for (index, count) in [0, 1, 3, 100, 32 << 10, (32 << 10) + 1, (2 << 20) + 7].enumerated() {
            builder.add("u8.\(index)", .u8, [count], bytes(count))
        }
        for (index, count) in [0, 1, 7, 16 << 10, (16 << 10) + 1, (1 << 20) + 5].enumerated() {
            builder.addBF16("bf16.\(index)", [count], &random)
            builder.add("f32.\(index)", .f32, [count], (0..<count).flatMap { _ in CheckpointBuilder.bytes(random.normal(1).bitPattern) })
        }
        if large > 0 { builder.addBF16("large", [large], &random) }
        try builder.write(to: folder.path)
        return folder.file("model.safetensors")
    }

    func pack(_ source: String, _ path: String, _ options: PackingOptions) throws -> TensorFile {
        let opened = try ContainerRegistry.open(source)
        let file = try #require(opened)
        try ZstdArchive.pack(file, to: path, options)
        return try ZstdArchive.open(PositionedFile.openForReading(path))
    }

    @Test(arguments: [true, false]) func everySizeComesBack(_ keepsByteOrder: Bool) throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let original = [UInt8](try Data(contentsOf: URL(fileURLWithPath: source)))
        let archive = try pack(source, folder.file("a.zst"), PackingOptions(keepsByteOrder: keepsByteOrder))
        let restored = try archive.bytes.read(original.count, at: 0)
        #expect(restored == original)
        #expect(try archive.bytes.size() == original.count)
        let tensors = try ContainerRegistry.open(source)?.tensors
        #expect(archive.tensors == tensors)
        var random = SeededGenerator(3)
        for _ in 0..<200 {
            let start = Int.random(in: 0..<original.count, using: &random)
            let end = min(original.count, start + Int.random(in: 0...70_000, using: &random))
            let part = try archive.bytes.read(end - start, at: start)
            #expect(part == Array(original[start..<end]))
        }
        #expect(try archive.bytes.read(10, at: original.count).isEmpty)
    }

    @Test func theFileDependsOnNeitherWorkersNorMemory() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        _ = try pack(source, folder.file("one.zst"), PackingOptions(memory: 1, workers: 1))
        _ = try pack(source, folder.file("many.zst"), PackingOptions(memory: 1 << 30, workers: 7))
        #expect(FileManager.default.contentsEqual(atPath: folder.file("one.zst"), andPath: folder.file("many.zst")))
    }

    /// Counts what is read of an archive.
    final class Meter: ByteSource, @unchecked Sendable {
        let file: PositionedFile
        /// Invariant: the test reads with one thread.
        var count = 0

        init(_ file: PositionedFile) { self.file = file }

        var path: String { file.path }
        var files: [any SourceFile] { [file] }
        func size() throws -> Int { try file.size() }
        func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }

        func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int {
            count += buffer.count
            return try file.read(into: buffer, at: offset)
        }
    }

    /// Reading one tensor, opening the archive included, costs less than 1 % more than the frames that hold it.
    @Test func oneTensorCostsItsOwnFrames() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder, large: 8 << 20)
        _ = try pack(source, folder.file("a.zst"), PackingOptions(workers: 2))
        let meter = Meter(try PositionedFile.openForReading(folder.file("a.zst")))
        let archive = try ZstdArchive.open(bytes: meter)
        let opening = meter.count
        let tensor = try #require(archive.tensors.first { $0.name == "large" })
        let values = try archive.bytes.read(tensor.byteCount, at: tensor.offset)
        let own = meter.count - opening
        #expect(values.count == tensor.byteCount && own < tensor.byteCount * 9 / 10)
        #expect(Double(meter.count) < 1.01 * Double(own), "\(meter.count) bytes read for \(own) of the tensor's own frames")
        // The frames are the tensor's own: reading its neighbours costs theirs, and together they are the file.
        var sum = opening + own
        for other in archive.tensors where other.name != "large" && other.byteCount >= 32 << 10 {
            let before = meter.count
            _ = try archive.bytes.read(other.byteCount, at: other.offset)
            sum += meter.count - before
        }
        let size = try meter.size()
        #expect(sum <= size + opening)
    }

    @Test func damageIsFoundAndNamed() throws {
        let folder = try TemporaryDirectory()
        let source = try source(folder)
        let original = [UInt8](try Data(contentsOf: URL(fileURLWithPath: source)))
        _ = try pack(source, folder.file("a.zst"), PackingOptions())
        let archive = [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder.file("a.zst"))))
        var random = SeededGenerator(17)
        for round in 0..<300 {
            var bytes = archive
            switch round % 4 {
            case 0: bytes[Int.random(in: 0..<bytes.count, using: &random)] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: bytes = Array(bytes.prefix(Int.random(in: 0..<bytes.count, using: &random)))
            case 2: bytes[bytes.count - 1 - Int.random(in: 0..<300, using: &random)] = UInt8.random(in: 0...255, using: &random)
            default:
                bytes.replaceSubrange(bytes.count - 9..<bytes.count - 5, with: CheckpointBuilder.bytes(UInt32(truncatingIfNeeded: random.next())))
            }
            try Data(bytes).write(to: URL(fileURLWithPath: folder.file("b.zst")))
            do {
                let opened = try ZstdArchive.open(PositionedFile.openForReading(folder.file("b.zst")))
                let restored = try opened.bytes.read(min(opened.bytes.size(), 64 << 20), at: 0)
                // Only bytes that say nothing can have changed.
                #expect(restored == original, "round \(round)")
            } catch let failure as any Failure {
                #expect(failure.kind == .badData && failure.description.contains("b.zst"), "\(failure)")
            }
        }
    }

    @Test func planesAreThoseOfThePage() throws {
        // FORMAT.md: 1.0, -1.5, 0.0078125, repeated until the tensor has planes of its own.
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        let numbers: [UInt8] = [0x80, 0x3F, 0xC0, 0xBF, 0x00, 0x3C]
        builder.add("w", .bf16, [3 << 13], (0..<1 << 13).flatMap { _ in numbers })
        try builder.write(to: folder.path)
        let archive = try pack(folder.file("model.safetensors"), folder.file("a.zst"), PackingOptions())
        let first = try archive.bytes.read(6, at: archive.tensors[0].offset)
        #expect(first == numbers)
        let zstd = try Subprocess("/usr/bin/env", ["sh", "-c", "zstd -dc '\(folder.file("a.zst"))' | od -An -v -tx1 | tr -d ' \\n'"])
        try #require(zstd.status == 0)
        let header = 2 * (archive.safetensorsDataOffset ?? 0), plane = 2 * (3 << 13)
        let content = Array(zstd.output.utf8)
        #expect(String(decoding: content[header..<header + 6], as: UTF8.self) == "7f7f78")
        #expect(String(decoding: content[header + plane..<header + plane + 6], as: UTF8.self) == "008100")
    }
}
