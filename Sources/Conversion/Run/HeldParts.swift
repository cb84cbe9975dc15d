import Checkpoints
import Formats
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// The parts of a target whose tiles are pieces of every stored row, held for a band of the weight's rows while its tiles are written or read back: a call
/// to the file for each stored row of a band, or one for all if the band is the whole weight, takes the place of one for each of a tile.
///
/// Invariant: the room that it was made in outlives it; a converter gives it a stretch of its worker's memory that nothing else uses meanwhile.
struct HeldParts {
    /// Rows of a band; those of the weight if it is held whole.
    let rows: Int
    private let target: PartLayout
    /// By part; nil for those whose tiles are runs of the file.
    private let rooms: [UnsafeMutableRawBufferPointer?]

    /// Bytes that a band of so many rows takes; 0 if the target has no such parts.
    static func byteCount(of target: PartLayout, rows: Int) -> Int {
        target.parts.reduce(0) { $1.isAlongRows ? $0 + PartLayout.aligned($1.runs(of: 0..<rows, in: target.shape).byteCount) : $0 }
    }

    /// - Parameter room: at least ``byteCount(of:rows:)`` bytes.
    init(of target: PartLayout, rows: Int, in room: UnsafeMutableRawBufferPointer) {
        self.target = target
        self.rows = rows
        var start = 0
        rooms = target.parts.map { part in
            guard part.isAlongRows else { return nil }
            let size = part.runs(of: 0..<rows, in: target.shape).byteCount
            defer { start += PartLayout.aligned(size) }
            return UnsafeMutableRawBufferPointer(rebasing: room[start..<start + size])
        }
    }

    /// The whole of a part; nil if it is not held, or not all of it.
    subscript(_ part: Int) -> UnsafeMutableRawBufferPointer? { rows == target.shape.rows ? rooms[part] : nil }

    /// Goes over what is held of a band in pieces of a few megabytes: by part, with the piece's place in it.
    func forEachPiece(
        of band: Range<Int>, _ body: (_ part: Int, _ runs: ByteRuns, _ piece: UnsafeMutableRawBufferPointer) throws -> Void
    ) rethrows {
        let most = 8 << 20
        for (index, room) in rooms.enumerated() {
            guard let room else { continue }
            let all = target.parts[index].runs(of: band, in: target.shape)
            if all.isContiguous {
                for start in stride(from: 0, to: all.byteCount, by: most) {
                    let range = start..<min(start + most, all.byteCount)
                    try body(
                        index, ByteRuns(all.start + range.lowerBound..<all.start + range.upperBound),
                        UnsafeMutableRawBufferPointer(rebasing: room[range]))
                }
                continue
            }
            let step = max(1, most / max(1, all.length))
            for first in stride(from: 0, to: all.count, by: step) {
                let runs = ByteRuns(
                    start: all.start + first * all.stride, length: all.length, stride: all.stride, count: min(step, all.count - first))
                let start = first * all.length
                try body(index, runs, UnsafeMutableRawBufferPointer(rebasing: room[start..<start + runs.byteCount]))
            }
        }
    }

    /// Puts a tile's piece in its place in a band.
    /// - Returns: false if the part is not held.
    func store(_ slice: UnsafeMutableRawBufferPointer, part: Int, _ tile: Range<Int>, of band: Range<Int>) -> Bool {
        forEachRow(part, tile, band, slice) { memcpy($0, $1, $2) }
    }

    /// Takes a tile's piece out of a band.
    /// - Returns: false if the part is not held.
    func load(_ slice: UnsafeMutableRawBufferPointer, part: Int, _ tile: Range<Int>, of band: Range<Int>) -> Bool {
        forEachRow(part, tile, band, slice) { memcpy($1, $0, $2) }
    }

    private func forEachRow(
        _ part: Int, _ tile: Range<Int>, _ band: Range<Int>, _ slice: UnsafeMutableRawBufferPointer,
        _ body: (_ held: UnsafeMutableRawPointer, _ piece: UnsafeMutableRawPointer, _ size: Int) -> Void
    ) -> Bool {
        guard let room = rooms[part] else { return false }
        guard let inner = target.parts[part].stretch(of: tile, in: target.shape), let outer = target.parts[part].stretch(of: band, in: target.shape),
            let base = room.baseAddress, let piece = slice.baseAddress
        else { return true }
        let (size, distance) = (inner.range.count, outer.range.count)
        precondition(inner.count * size == slice.count && inner.count * distance <= room.count)
        for row in 0..<inner.count {
            body(base + row * distance + inner.range.lowerBound - outer.range.lowerBound, piece + row * size, size)
        }
        return true
    }
}
