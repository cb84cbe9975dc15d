import Checkpoints
import Formats
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// The parts of a target whose tiles are pieces of every stored row, each held whole while it is written or read back: a call to the file for all of
/// them takes the place of one a stored row.
///
/// Invariant: the room that it was made in outlives it; a converter gives it a stretch of its worker's memory that nothing else uses meanwhile.
struct HeldParts {
    /// By part; nil for those whose tiles are runs of the file.
    private let wholes: [UnsafeMutableRawBufferPointer?]

    static func byteCount(of target: PartLayout) -> Int {
        target.parts.reduce(0) { $1.isAlongRows ? $0 + PartLayout.aligned($1.byteCount) : $0 }
    }

    /// - Parameter room: at least ``byteCount(of:)`` bytes.
    init(of target: PartLayout, in room: UnsafeMutableRawBufferPointer) {
        var start = 0
        wholes = target.parts.map { part in
            guard part.isAlongRows else { return nil }
            defer { start += PartLayout.aligned(part.byteCount) }
            return UnsafeMutableRawBufferPointer(rebasing: room[start..<start + part.byteCount])
        }
    }

    /// The whole of a part; nil if it is not held.
    subscript(_ part: Int) -> UnsafeMutableRawBufferPointer? { wholes[part] }

    /// Goes over what is held in pieces of a few megabytes: by part, with the place in it.
    func forEachPiece(_ body: (_ part: Int, _ start: Int, _ piece: UnsafeMutableRawBufferPointer) throws -> Void) rethrows {
        for (part, whole) in wholes.enumerated() {
            guard let whole else { continue }
            for start in stride(from: 0, to: whole.count, by: 8 << 20) {
                try body(part, start, UnsafeMutableRawBufferPointer(rebasing: whole[start..<min(start + (8 << 20), whole.count)]))
            }
        }
    }

    /// Puts a tile's piece in its place.
    /// - Returns: false if the part is not held.
    func store(_ slice: UnsafeMutableRawBufferPointer, part: Int, _ runs: ByteRuns) -> Bool {
        guard let whole = wholes[part] else { return false }
        guard let base = whole.baseAddress, var source = slice.baseAddress.map({ UnsafeRawPointer($0) }) else { return true }
        for range in runs.ranges {
            memcpy(base + range.lowerBound, source, range.count)
            source += range.count
        }
        return true
    }

    /// Takes a tile's piece out.
    /// - Returns: its bytes; nil if the part is not held.
    func load(_ slice: UnsafeMutableRawBufferPointer, part: Int, _ runs: ByteRuns) -> Int? {
        guard let whole = wholes[part] else { return nil }
        guard let base = whole.baseAddress, var target = slice.baseAddress else { return 0 }
        for range in runs.ranges {
            memcpy(target, base + range.lowerBound, range.count)
            target += range.count
        }
        return runs.byteCount
    }
}
