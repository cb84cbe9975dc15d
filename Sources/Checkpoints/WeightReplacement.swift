import Formats
import Tensors

/// A weight as something else would store it: what a forward pass computes with before anything is written.
package struct WeightReplacement: Sendable {
    /// Makes the stored parts of some rows.
    package typealias Maker = @Sendable (_ rows: Range<Int>, _ slices: [UnsafeMutableRawBufferPointer]) throws -> Void

    package var layout: any WeightLayout
    /// In the order of the layout's parts; none where the weight is too large to be held, and made tile by tile as it is read.
    package var parts: [AlignedBuffer]
    private var maker: Maker?

    package init(layout: any WeightLayout, parts: [AlignedBuffer]) {
        self.layout = layout
        self.parts = parts
    }

    /// Room for the parts of a weight.
    package init(layout: any WeightLayout, shape: MatrixShape) throws {
        self.init(layout: layout, parts: try layout.parts(of: shape).map { try AlignedBuffer(byteCount: $0.byteCount) })
    }

    /// A weight that is made anew whenever rows of it are read.
    package init(layout: any WeightLayout, maker: @escaping Maker) {
        self.init(layout: layout, parts: [])
        self.maker = maker
    }

    /// Fills `slices` with the stored parts of some rows, which are cut at the layout's row alignment.
    package func read(_ rows: Range<Int>, _ shape: MatrixShape, into slices: [UnsafeMutableRawBufferPointer]) throws {
        if let maker { return try maker(rows, slices) }
        for (index, part) in layout.parts(of: shape).enumerated() { parts[index].copy(part.runs(of: rows, in: shape), to: slices[index]) }
    }

    /// Copies a tile's parts to their places.
    package func put(_ tile: [UnsafeMutableRawBufferPointer], rows: Range<Int>, shape: MatrixShape) {
        for (index, part) in layout.parts(of: shape).enumerated() {
            var start = 0
            for run in part.runs(of: rows, in: shape).ranges where !run.isEmpty {
                parts[index].slice(run).copyMemory(from: UnsafeRawBufferPointer(rebasing: tile[index][start..<start + run.count]))
                start += run.count
            }
        }
    }
}
