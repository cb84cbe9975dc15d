import CKernels
import Tensors

/// Encoding of groups with a scale and a zero point or a bias, block by block: what a block's groups span, what follows from that, and its codes
/// stay in the cache between the steps.
struct GroupTiles {
    /// Of the weight.
    var rows: Range<Int>
    var columns: Int
    /// Columns of a group; divides `columns`.
    var size: Int
    /// Rows and columns of a block: whole groups, and whole words of the layout.
    var blockRows: Int
    var blockColumns: Int

    /// A block, and room for what belongs to it: of groups [rows][groups], of codes [rows][columns].
    struct Block {
        /// In the tile.
        var rows: Range<Int>
        var columns: Range<Int>
        var groups: Range<Int>
        fileprivate(set) var least: UnsafeMutablePointer<UInt16>
        fileprivate(set) var greatest: UnsafeMutablePointer<UInt16>
        /// As they are used for the codes.
        fileprivate(set) var scales: UnsafeMutablePointer<Float>
        /// Zero points or biases.
        fileprivate(set) var offsets: UnsafeMutablePointer<Float>
        fileprivate(set) var codes: UnsafeMutablePointer<UInt8>

        var groupCount: Int { rows.count * groups.count }

        /// - Throws: ``EncodingFault/overflowsF16(row:)`` if a scale is not finite, or would not be in F16.
        func refuseInfiniteScales(of weightRows: Range<Int>) throws(EncodingFault) {
            for index in 0..<groupCount where !(scales[index].magnitude < 65520) {
                throw .overflowsF16(row: weightRows.lowerBound + rows.lowerBound + index / groups.count)
            }
        }

        /// Scale and zero point of a group, by its row and place in the block.
        @inline(__always)
        func parameters(_ row: Int, _ group: Int) -> GroupParameters {
            GroupParameters(scale: scales[row * groups.count + group], zero: offsets[row * groups.count + group])
        }
    }

    /// Blocks of at most 64 KiB of codes, if their rows and columns may be as few.
    /// - Parameters:
    ///   - rows: of the weight.
    ///   - blockRows: rows of a block, which fill whole words if the layout has words along the rows.
    ///   - columnAlignment: columns that fill whole words.
    init(rows: Range<Int>, columns: Int, groupSize: Int?, blockRows: Int, columnAlignment: Int = 32) {
        (self.rows, self.columns) = (rows, columns)
        size = groupSize ?? columns
        self.blockRows = max(1, min(rows.count, blockRows))
        let unit = size % columnAlignment == 0 ? size : columns
        blockColumns = min(columns, max(1, (64 << 10) / self.blockRows / max(1, unit)) * unit)
    }

    /// Goes over the blocks.
    /// - Parameters:
    ///   - parameters: sets scales and offsets from what the groups span.
    ///   - store: takes codes, scales and offsets.
    /// - Throws: ``EncodingFault/notFinite(row:)`` for a value that is not; what `parameters` throws.
    func encode(
        _ source: UnsafePointer<UInt16>, greatestCode: Float, rule: some BinaryInteger,
        parameters: (Block) throws(EncodingFault) -> Void, store: (Block) -> Void
    ) throws(EncodingFault) {
        guard !rows.isEmpty, columns > 0, size > 0 else { return }
        let level = KernelLevel.active.rawValue
        let groups = blockRows * (blockColumns / size)
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: groups * 12 + blockRows * blockColumns, alignment: 64)
        defer { room.deallocate() }
        let base = room.baseAddress!
        for firstRow in stride(from: 0, to: rows.count, by: blockRows) {
            for firstColumn in stride(from: 0, to: columns, by: blockColumns) {
                let within = firstRow..<min(rows.count, firstRow + blockRows)
                let columns = firstColumn..<min(self.columns, firstColumn + blockColumns)
                let block = Block(
                    rows: within, columns: columns, groups: columns.lowerBound / size..<columns.upperBound / size,
                    least: (base + groups * 8).assumingMemoryBound(to: UInt16.self),
                    greatest: (base + groups * 10).assumingMemoryBound(to: UInt16.self), scales: base.assumingMemoryBound(to: Float.self),
                    offsets: (base + groups * 4).assumingMemoryBound(to: Float.self),
                    codes: (base + groups * 12).assumingMemoryBound(to: UInt8.self))
                let start = source + firstRow * self.columns + firstColumn
                ck_bf16_ranges(level, start, self.columns, within.count, block.groups.count, size, block.least, block.greatest)
                for index in 0..<block.groupCount where block.least[index] & 0x7FFF >= 0x7F80 || block.greatest[index] & 0x7FFF >= 0x7F80 {
                    throw .notFinite(row: rows.lowerBound + firstRow + index / block.groups.count)
                }
                try parameters(block)
                ck_affine_encode(
                    level, start, self.columns, within.count, block.groups.count, size, block.scales, block.offsets, greatestCode, Int32(rule),
                    block.codes)
                store(block)
            }
        }
    }
}
