import Recast

/// The stored parts of a matrix, encoded in tiles of `step` rows.
public func encodeTiles(_ layout: any WeightLayout, _ values: [UInt16], _ shape: MatrixShape, step: Int) throws -> [[UInt8]] {
    var stored = layout.parts(of: shape).map { [UInt8](repeating: 0xEE, count: $0.byteCount) }
    let parts = PartLayout(parts: layout.parts(of: shape), shape: shape)
    for rows in TileSequence(rows: shape.rows, step: step) {
        let buffer = AlignedBuffer(byteCount: parts.byteCount(rows))
        let slices = parts.slices(rows, in: buffer.bytes)
        try values.withUnsafeBufferPointer {
            try layout.encode(
                UnsafeBufferPointer(rebasing: $0[(rows.lowerBound * shape.columns)..<(rows.upperBound * shape.columns)]), rows: rows,
                shape: shape, into: slices)
        }
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

/// The values of a matrix, decoded in tiles of `step` rows.
public func decodeTiles(_ layout: any WeightLayout, _ stored: [[UInt8]], _ shape: MatrixShape, step: Int) -> [UInt16] {
    var values = [UInt16](repeating: 0, count: shape.count)
    let parts = PartLayout(parts: layout.parts(of: shape), shape: shape)
    for rows in TileSequence(rows: shape.rows, step: step) {
        let buffer = AlignedBuffer(byteCount: parts.byteCount(rows))
        let slices = parts.slices(rows, in: buffer.bytes)
        for (index, slice) in slices.enumerated() {
            slice.copyBytes(from: parts.parts[index].runs(of: rows, in: shape).ranges.flatMap { stored[index][$0] })
        }
        values.withUnsafeMutableBufferPointer {
            layout.decode(
                slices.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: shape,
                into: UnsafeMutableBufferPointer(rebasing: $0[(rows.lowerBound * shape.columns)..<(rows.upperBound * shape.columns)]))
        }
    }
    return values
}
