import ArgumentParser
import Recast

struct ArchiveBenchmark: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "archive", abstract: "Size and speed of zstd archives: one thread, from memory to memory and back.")

    @Argument(help: "A directory of safetensors files.") var model: String
    @Option(help: "How often each is timed; the fastest counts.") var rounds = 7

    /// A file's bytes, or an archive's, in memory.
    final class MemoryBytes: ByteSource, @unchecked Sendable {
        let memory: AlignedBuffer
        /// Invariant: written by one thread before anybody reads.
        var count = 0
        let path = "memory"
        let files: [any SourceFile] = []

        init(capacity: Int) throws { memory = try AlignedBuffer(byteCount: capacity) }

        func append(_ bytes: UnsafeRawBufferPointer) {
            memory.slice(count..<count + bytes.count).copyMemory(from: bytes)
            count += bytes.count
        }

        func size() -> Int { count }

        func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
            let length = max(0, min(buffer.count, count - offset))
            if length > 0 { buffer.copyMemory(from: UnsafeRawBufferPointer(memory.slice(offset..<offset + length))) }
            return length
        }

        func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }
    }

    func run() throws {
        ProcessFigures.keepFreedMemory()
        let files = try FileTree.list(model).filter { $0.hasSuffix(".safetensors") }
        let name = model.split(separator: "/").last.map(String.init) ?? model
        for keepsByteOrder in [false, true] {
            var (total, size, pack, unpack) = (0, 0, 0.0, 0.0)
            for file in files {
                let content = try FileTree.read(model + "/" + file, limit: 1 << 40)
                let plain = try MemoryBytes(capacity: content.count)
                content.withUnsafeBytes { plain.append($0) }
                let source = try Safetensors.open(bytes: plain)
                let archive = try MemoryBytes(capacity: content.count * 2)
                let restored = try AlignedBuffer(byteCount: content.count)
                var (forth, back) = (Double.infinity, Double.infinity)
                for _ in 0...rounds {
                    archive.count = 0
                    var start = ProcessFigures.now
                    try ZstdArchive.pack(source, PackingOptions(workers: 1, keepsByteOrder: keepsByteOrder)) { archive.append($0) }
                    forth = min(forth, ProcessFigures.now - start)
                    let opened = try ZstdArchive.open(bytes: archive)
                    start = ProcessFigures.now
                    guard try opened.bytes.read(into: restored.slice(0..<content.count), at: 0) == content.count else { continue }
                    back = min(back, ProcessFigures.now - start)
                }
                (total, size, pack, unpack) = (total + content.count, size + archive.count, pack + forth, unpack + back)
            }
            guard total > 0 else { throw ValidationError("\(model) holds no safetensors files") }
            func speed(_ seconds: Double) -> Int { Int(Double(total) / seconds / 1e6) }
            let share = (Double(size) / Double(total) * 100).rounded(to: 2)
            print(
                "\(name): recast\(keepsByteOrder ? ", bytes in order" : ""): \(share) % of \(total) bytes, pack \(speed(pack)) MB/s, unpack \(speed(unpack)) MB/s"
            )
        }
    }
}
