import Formats
import Runtime
import Tensors

extension WeightRows {
    /// Chooses for all rows, some at a time on several threads.
    /// - Parameter groups: of a row.
    func inParallel(_ workers: Int, groups count: Int, _ choose: @escaping @Sendable (WeightRows) -> QuantizedRows) throws -> QuantizedRows {
        let groups = try AlignedBuffer(byteCount: rows * count * MemoryLayout<GroupParameters>.stride)
        let codes = try AlignedBuffer(byteCount: values.count)
        let step = 16
        let whole = self
        try ParallelLoop.run(count: ceilingDivide(rows, step), workers: workers, state: {}) { index, _ in
            let rows = index * step..<min(whole.rows, (index + 1) * step)
            let places = rows.lowerBound * whole.columns..<rows.upperBound * whole.columns
            let chosen = choose(WeightRows(values: Array(whole.values[places]), rows: rows.count, columns: whole.columns))
            chosen.codes.withUnsafeBytes { codes.slice(places).copyMemory(from: $0) }
            let target = groups.bytes.assumingMemoryBound(to: GroupParameters.self).baseAddress! + rows.lowerBound * count
            for (place, parameters) in chosen.groups.enumerated() { target[place] = parameters }
        }
        return QuantizedRows(
            codes: codes.array(of: UInt8.self, count: values.count), groups: groups.array(of: GroupParameters.self, count: rows * count))
    }
}
