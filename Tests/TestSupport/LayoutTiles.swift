import Recast

/// The stored parts of a matrix, written by `body` in tiles of `step` rows as a run would write them.
package func storedTiles(
    _ layout: any WeightLayout, _ shape: MatrixShape, step: Int, _ body: (Range<Int>, [UnsafeMutableRawBufferPointer]) throws -> Void
) rethrows -> [[UInt8]] {
    var stored = layout.parts(of: shape).map { [UInt8](repeating: 0xEE, count: $0.byteCount) }
    let parts = PartLayout(parts: layout.parts(of: shape), shape: shape)
    for rows in TileSequence(rows: shape.rows, step: step) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(64, parts.byteCount(rows)), alignment: 4096)
        defer { buffer.deallocate() }
        let slices = parts.slices(rows, in: buffer)
        try body(rows, slices)
        for (index, slice) in slices.enumerated() {
            var done = 0
            for range in parts.parts[index].runs(of: rows, in: shape).ranges {
                stored[index].replaceSubrange(range, with: slice[done..<done + range.count])
                done += range.count
            }
        }
    }
    return stored
}

/// Calls `body` with the stored parts of a tile.
package func withStoredTile<Result>(
    _ layout: any WeightLayout, _ shape: MatrixShape, _ stored: [[UInt8]], _ rows: Range<Int>, _ body: ([UnsafeRawBufferPointer]) throws -> Result
) rethrows -> Result {
    let parts = PartLayout(parts: layout.parts(of: shape), shape: shape)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(64, parts.byteCount(rows)), alignment: 4096)
    defer { buffer.deallocate() }
    let slices = parts.slices(rows, in: buffer)
    for (index, slice) in slices.enumerated() {
        slice.copyBytes(from: parts.parts[index].runs(of: rows, in: shape).ranges.flatMap { stored[index][$0] })
    }
    return try body(slices.map { UnsafeRawBufferPointer($0) })
}

/// The stored parts of a matrix, encoded in tiles of `step` rows.
package func encodeTiles(_ layout: any WeightLayout, _ values: [UInt16], _ shape: MatrixShape, step: Int) throws -> [[UInt8]] {
    try storedTiles(layout, shape, step: step) { rows, slices in
        try values.withUnsafeBufferPointer {
            let tile = UnsafeBufferPointer(rebasing: $0[(rows.lowerBound * shape.columns)..<(rows.upperBound * shape.columns)])
            try layout.encode(tile, rows: rows, shape: shape, into: slices)
        }
    }
}

/// The values of a matrix, decoded in tiles of `step` rows.
package func decodeTiles(_ layout: any WeightLayout, _ stored: [[UInt8]], _ shape: MatrixShape, step: Int) -> [UInt16] {
    var values = [UInt16](repeating: 0, count: shape.count)
    for rows in TileSequence(rows: shape.rows, step: step) {
        withStoredTile(layout, shape, stored, rows) { parts in
            values.withUnsafeMutableBufferPointer {
                let tile = UnsafeMutableBufferPointer(rebasing: $0[(rows.lowerBound * shape.columns)..<(rows.upperBound * shape.columns)])
                layout.decode(parts, rows: rows, shape: shape, into: tile)
            }
        }
    }
    return values
}
