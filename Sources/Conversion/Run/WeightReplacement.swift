import Checkpoints
import Formats
import Quantization
import Runtime
import Tensors

extension WeightReplacement {
    /// The weight that some planned ones, all of the same source, would hold; nil where its values do not change.
    /// - Parameter memory: a weight of more bytes is not held but made as it is read, where any of its rows can be made by themselves.
    package init?(
        _ planned: [PlannedWeight], of checkpoint: Checkpoint, statistics: InputStatistics? = nil, workers: Int, memory: Int = .max,
        stop: StopToken = StopToken()
    ) throws {
        guard planned.contains(where: { $0.road == .quantize || $0.road == .cast }) else { return nil }
        if planned.count == 1, planned[0].view == nil {
            let converter = WeightConverter(checkpoint, planned[0], statistics: statistics)
            if let layout = planned[0].layout, converter.isMadeByRows, converter.target.byteCount(0..<converter.shape.rows) > memory {
                self.init(layout: layout) { rows, slices in
                    let memory = try AlignedBuffer(byteCount: converter.places(rows).total)
                    let made = try converter.produce(rows, layout, memory.bytes, RunCounters())
                    withExtendedLifetime(memory) {
                        for (slice, part) in zip(slices, made) { slice.copyMemory(from: UnsafeRawBufferPointer(rebasing: part[..<slice.count])) }
                    }
                }
                return
            }
            self = try converter.whole(workers, stop)
            return
        }
        // Parts under names of their own.
        let shape = checkpoint.weights[planned[0].source].shape
        let pieces = try planned.compactMap { part in
            try part.view.map { ($0, try WeightConverter(checkpoint, part, statistics: statistics).whole(workers, stop)) }
        }
        try self.init(joining: pieces, shape: shape)
    }

    /// The values of parts of a weight, put together again.
    package init(joining pieces: [(view: WeightView, part: WeightReplacement)], shape: MatrixShape) throws {
        try self.init(layout: .dense(.bf16), shape: shape)
        let values = parts[0].bytes.assumingMemoryBound(to: UInt16.self)
        for (view, replaced) in pieces {
            let layout = replaced.layout
            var decoded = [UInt16](repeating: 0, count: view.shape.count)
            decoded.withUnsafeMutableBufferPointer { decoded in
                withExtendedLifetime(replaced) {
                    layout.decode(
                        replaced.parts.map { UnsafeRawBufferPointer($0.bytes) }, rows: 0..<view.shape.rows, shape: view.shape, into: decoded)
                }
            }
            for y in 0..<(view.isTransposed ? view.rows.count : view.shape.rows) {
                let row = view.row(y)
                for (x, column) in view.columns.enumerated() {
                    values[row * shape.columns + column] = decoded[view.isTransposed ? x * view.rows.count + y : y * view.columns.count + x]
                }
            }
        }
    }
}

extension WeightConverter {
    /// Whether any rows that the target's layout allows can be made without others.
    var isMadeByRows: Bool {
        guard let layout = planned.layout, planned.rangeSources.isEmpty, let source = weight.layout else { return false }
        return layout.rowAlignment % source.rowAlignment == 0
    }

    /// The whole weight as it would be written.
    func whole(_ workers: Int, _ stop: StopToken) throws -> WeightReplacement {
        guard let planned = planned.layout else { throw failure(.readOnly) }
        let result = try WeightReplacement(layout: planned, shape: shape)
        let counters = RunCounters()
        let least = minimumBytes, preferred = max(tileBytes, minimumBytes)
        let range = try AlignedBuffer(byteCount: preferred)
        let layout = try withExtendedLifetime(range) { try layoutOverWholeRange(range.bytes, stop) }
        let tiles = Array(TileSequence(of: shape, step: rowsPerTile(max(least, preferred), isHeld: false)))
        try ParallelLoop.run(count: tiles.count, workers: workers) {
            try AlignedBuffer(byteCount: preferred)
        } body: { index, memory in
            try checkStop(stop)
            result.put(try produce(tiles[index], layout, memory.bytes, counters), rows: tiles[index], shape: shape)
        }
        return result
    }
}
