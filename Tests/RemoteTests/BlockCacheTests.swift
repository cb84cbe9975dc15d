import Foundation
import Remote
import TestSupport
import Testing

@Suite struct BlockCacheTests {
    private func size(_ path: String) throws -> Int {
        let names = FileManager.default.enumerator(atPath: path)?.compactMap { $0 as? String } ?? []
        return try names.reduce(0) { sum, name in
            let attributes = try FileManager.default.attributesOfItem(atPath: path + "/" + name)
            return sum + (attributes[.type] as? FileAttributeType == .typeRegular ? (attributes[.size] as? Int ?? 0) : 0)
        }
    }

    private func keep(_ bytes: [UInt8], _ name: String, in cache: BlockCache) { cache.keep(bytes, BlockDigest(bytes), name) }

    @Test func keepsAndForgets() throws {
        let folder = try TemporaryDirectory()
        let cache = BlockCache(folder.path, limit: 10_000)
        for number in 0..<40 {
            keep([UInt8](repeating: UInt8(number), count: 1000), "block \(number)", in: cache)
            #expect(try size(folder.path) <= 10_000)
        }
        #expect(cache.content("block 39")?.bytes == [UInt8](repeating: 39, count: 1000))
        #expect(cache.content("block 0") == nil)
        #expect(cache.content("another") == nil)
        // What would be most of it is not kept.
        keep([UInt8](repeating: 1, count: 9000), "large", in: cache)
        #expect(cache.content("large") == nil)
    }

    @Test func damageIsNoContent() throws {
        let folder = try TemporaryDirectory()
        let cache = BlockCache(folder.path, limit: 1 << 20)
        keep(Array(0..<200), "block", in: cache)
        let names = FileManager.default.enumerator(atPath: folder.path)?.compactMap { $0 as? String } ?? []
        let file = try #require(names.first { $0.split(separator: "/").count == 3 })
        let path = folder.path + "/" + file
        var bytes = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
        bytes[100] ^= 1
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        #expect(cache.content("block") == nil)
        try Data(bytes.prefix(20)).write(to: URL(fileURLWithPath: path))
        #expect(cache.content("block") == nil)
        try Data().write(to: URL(fileURLWithPath: path))
        #expect(cache.content("block") == nil)
    }

    @Test func unusablePlacesAreLeft() {
        let cache = BlockCache("/proc/no/such/place", limit: 1 << 20)
        keep([1, 2, 3], "block", in: cache)
        #expect(cache.content("block") == nil)
    }
}
