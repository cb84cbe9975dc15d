import Checkpoints
import Formats
import Quantization
import Tensors

/// A weight as a plan would store it, in memory: what a forward pass computes with before anything is written.
public struct WeightReplacement: Sendable {
    public var layout: any WeightLayout
    /// In the order of the layout's parts.
    public var parts: [AlignedBuffer]

    public init(layout: any WeightLayout, parts: [AlignedBuffer]) {
        self.layout = layout
        self.parts = parts
    }

    /// Room for the parts of a weight.
    public init(layout: any WeightLayout, shape: MatrixShape) {
        self.init(layout: layout, parts: layout.parts(of: shape).map { AlignedBuffer(byteCount: $0.byteCount) })
    }

    /// Copies a tile's parts to their places.
    public func put(_ tile: [UnsafeMutableRawBufferPointer], rows: Range<Int>, shape: MatrixShape) {
        for (index, part) in layout.parts(of: shape).enumerated() {
            var start = 0
            for run in part.runs(of: rows, in: shape).ranges where !run.isEmpty {
                parts[index].slice(run).copyMemory(from: UnsafeRawBufferPointer(rebasing: tile[index][start..<start + run.count]))
                start += run.count
            }
        }
    }

    /// The weight that some planned ones, all of the same source, would hold; nil where its values do not change.
    public init?(
        _ planned: [PlannedWeight], of checkpoint: Checkpoint, statistics: InputStatistics? = nil, workers: Int, stop: StopToken = StopToken()
    ) throws {
        guard planned.contains(where: { $0.road == .quantize || $0.road == .cast }) else { return nil }
        if planned.count == 1, planned[0].view == nil {
            self = try WeightConverter(checkpoint, planned[0], statistics: statistics).whole(workers, stop)
            return
        }
        // Parts under names of their own: their values, put together again.
        let shape = checkpoint.weights[planned[0].source].shape
        self.init(layout: DenseLayout(.bf16), shape: shape)
        let values = parts[0].bytes.assumingMemoryBound(to: UInt16.self)
        for part in planned {
            guard let view = part.view, let layout = part.layout else { continue }
            let replaced = try WeightConverter(checkpoint, part, statistics: statistics).whole(workers, stop)
            var decoded = [UInt16](repeating: 0, count: view.shape.count)
            decoded.withUnsafeMutableBufferPointer { decoded in
                withExtendedLifetime(replaced) {
                    layout.decode(
                        replaced.parts.map { UnsafeRawBufferPointer($0.bytes) }, rows: 0..<view.shape.rows, shape: view.shape, into: decoded)
                }
            }
            for (y, row) in view.rows.enumerated() {
                for (x, column) in view.columns.enumerated() {
                    values[row * shape.columns + column] = decoded[view.isTransposed ? x * view.rows.count + y : y * view.columns.count + x]
                }
            }
        }
    }
}

extension WeightConverter {
    /// The whole weight as it would be written.
    func whole(_ workers: Int, _ stop: StopToken) throws -> WeightReplacement {
        guard let planned = planned.layout else { throw failure(.readOnly) }
        let result = WeightReplacement(layout: planned, shape: shape)
        let counters = RunCounters()
        let least = minimumBytes, preferred = max(preferredBytes, minimumBytes)
        let range = AlignedBuffer(byteCount: preferred)
        let layout = try withExtendedLifetime(range) { try layoutOverWholeRange(range.bytes, stop) }
        let tiles = Array(TileSequence(of: shape, step: rowsPerTile(max(least, preferred))))
        try ParallelLoop.run(count: tiles.count, workers: workers) {
            AlignedBuffer(byteCount: preferred)
        } body: { index, memory in
            try checkStop(stop)
            result.put(try produce(tiles[index], layout, memory.bytes, counters), rows: tiles[index], shape: shape)
        }
        return result
    }
}
