import Foundation
import Recast
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Files that leave pages of zeros as holes hold the same bytes as others.
@Suite struct SparseFileTests {
    private func write(_ pieces: [(bytes: [UInt8], offset: Int)], to path: String, size: Int, over garbage: UInt8?, isSparse: Bool) throws {
        try Data(repeating: garbage ?? 0, count: garbage == nil ? 0 : size).write(to: URL(fileURLWithPath: path))
        let file = try PositionedFile.openForWriting(path, isSparse: isSparse)
        try file.resize(to: size)
        for piece in pieces { try piece.bytes.withUnsafeBytes { try file.write($0, at: piece.offset) } }
    }

    private func allocated(_ path: String) -> Int {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_blocks) * 512 : -1
    }

    /// Pieces that begin and end inside pages, with stretches of zeros of every length, into a new file and over one that holds something else.
    @Test(arguments: [nil, 0xA5] as [UInt8?]) func everyByteIsTheSame(over garbage: UInt8?) throws {
        let folder = try TemporaryDirectory()
        var random = SeededGenerator(3)
        for round in 0..<40 {
            var pieces: [(bytes: [UInt8], offset: Int)] = []
            var end = Int.random(in: 0..<9000, using: &random)
            for _ in 0..<6 {
                var bytes: [UInt8] = []
                for _ in 0..<5 {
                    let length = [0, 1, 100, 4095, 4096, 4097, 20000].randomElement(using: &random)!
                    bytes += [UInt8](repeating: Bool.random(using: &random) ? 0 : 7, count: length)
                }
                pieces.append((bytes, end))
                end += bytes.count + [0, 0, 1, 5000].randomElement(using: &random)!
            }
            // In any order: pages that two pieces share are written by both.
            pieces.shuffle(using: &random)
            try write(pieces, to: folder.file("plain"), size: end, over: garbage, isSparse: false)
            try write(pieces, to: folder.file("sparse"), size: end, over: garbage, isSparse: true)
            #expect(FileManager.default.contentsEqual(atPath: folder.file("plain"), andPath: folder.file("sparse")), "round \(round)")
            #expect(allocated(folder.file("sparse")) <= allocated(folder.file("plain")))
        }
    }

    @Test func zerosTakeNoSpace() throws {
        let folder = try TemporaryDirectory()
        let path = folder.file("file")
        let probe = try FileSystemProbe(folder.path)
        let megabyte = [UInt8](repeating: 0, count: 1 << 20)
        try write([(megabyte, 100), ([1], 99)], to: path, size: 4 << 20, over: nil, isSparse: true)
        #expect(!probe.holes || allocated(path) <= 64 << 10)
        // What was there before is given back, but for the pages that hold something else.
        try write([(megabyte, 100)], to: path, size: 2 << 20, over: 1, isSparse: true)
        #expect(!probe.holes || allocated(path) <= (1 << 20) + (64 << 10))
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        #expect(bytes[99] == 1 && bytes[100..<((1 << 20) + 100)].allSatisfy { $0 == 0 } && bytes[((1 << 20) + 100)...].allSatisfy { $0 == 1 })
    }
}
