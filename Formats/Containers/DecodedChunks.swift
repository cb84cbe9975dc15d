import Runtime
import Synchronization
import Tensors

/// Chunks that had to be decoded whole, kept for the next read beside: tiles of a weight do not end where chunks do.
///
/// One store for the process, bounded by ``capacity`` however many files are open.
final class DecodedChunks: Sendable {
    static let shared = DecodedChunks()
    /// Bytes that are kept. A larger chunk is decoded for each read of it.
    static let capacity = 48 << 20

    struct Key: Hashable {
        /// The file, by a number of its own.
        var file: Int
        var chunk: Int
    }

    final class Chunk: Sendable {
        /// Invariant: filled before the chunk is shared, only read afterwards.
        let memory: AlignedBuffer
        let count: Int

        init(_ memory: AlignedBuffer, count: Int) {
            self.memory = memory
            self.count = count
        }

        var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(memory.slice(0..<count)) }
    }

    private struct Store {
        var chunks: [Key: Chunk] = [:]
        /// Least recently used first.
        var order: [Key] = []
        var size = 0
    }

    private let store = Lock(Store())
    private let files = Atomic<Int>(0)

    func newFile() -> Int { files.add(1, ordering: .relaxed).newValue }

    /// The chunk `key` of `count` bytes, decoded by `decode` unless it is at hand.
    func chunk(_ key: Key, count: Int, decode: (UnsafeMutableRawBufferPointer) throws -> Void) throws -> Chunk {
        let known = store.withLock { store -> Chunk? in
            guard let chunk = store.chunks[key] else { return nil }
            if let place = store.order.lastIndex(of: key) {
                store.order.remove(at: place)
                store.order.append(key)
            }
            return chunk
        }
        if let known { return known }
        let memory = try AlignedBuffer(byteCount: count)
        try decode(memory.slice(0..<count))
        let chunk = Chunk(memory, count: count)
        guard count <= Self.capacity / 2 else { return chunk }
        store.withLock { store in
            guard store.chunks[key] == nil else { return }
            store.chunks[key] = chunk
            store.order.append(key)
            store.size += count
            while store.size > Self.capacity {
                let oldest = store.order.removeFirst()
                store.size -= store.chunks.removeValue(forKey: oldest)?.count ?? 0
            }
        }
        return chunk
    }

    /// Forgets what belongs to a file that is closed.
    func forget(file: Int) {
        store.withLock { store in
            for key in store.order where key.file == file { store.size -= store.chunks.removeValue(forKey: key)?.count ?? 0 }
            store.order.removeAll { $0.file == file }
        }
    }
}
