import ArgumentParser
import Foundation
import Recast

/// One thread, one expert-sized matrix, far larger than the caches; every layout by the functions that conversions call.
struct KernelBenchmark: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "kernels", abstract: "Encoding and decoding as shares of memcpy.")

    @Option(help: "Rows of the matrix.") var rows = 18432
    @Option(help: "Columns of the matrix.") var columns = 7168
    @Option(help: "Rounds that count.") var rounds = 7
    @Option(parsing: .upToNextOption, help: "Layouts, by their names in `recast layouts`; all of them by default.") var layouts: [String] = []

    func validate() throws {
        if let unknown = layouts.first(where: { LayoutRegistry.target(named: $0) == nil }) {
            throw ValidationError("unknown layout \"\(unknown)\"")
        }
    }

    func run() throws {
        let shape = MatrixShape(rows: rows, columns: columns)
        let values = try AlignedBuffer(byteCount: shape.count * 2)
        let copy = try AlignedBuffer(byteCount: shape.count * 2)
        fill(values.bytes.assumingMemoryBound(to: UInt16.self))

        print("\(rows) x \(columns), one thread, level \(KernelLevel.active); memcpy of the BF16 values in the same rounds = 100 %")
        let amax = values.bytes.assumingMemoryBound(to: UInt16.self).reduce(0) { max($0, $1 & 0x7FFF) }
        let targets = LayoutRegistry.targets.filter { layouts.isEmpty ? $0.isListed && !$0.layout.isDense : layouts.contains($0.name) }
        for target in targets {
            // A layout with one scale for the tensor must know its range.
            let layout: any WeightLayout = (target.layout as? any WholeRangeLayout)?.spanning(amax) ?? target.layout
            let parts = PartLayout(parts: layout.parts(of: shape), shape: shape)
            let stored = try AlignedBuffer(byteCount: parts.byteCount(0..<rows))
            defer { withExtendedLifetime((values, copy, stored)) {} }
            let whole = parts.slices(0..<rows, in: stored.bytes)
            func tiles(_ body: (Range<Int>, [UnsafeMutableRawBufferPointer], UnsafeMutableBufferPointer<UInt16>) -> Void) {
                for tile in TileSequence(rows: rows, step: layout.preferredRows > 1 ? rows : 128) {
                    let slices = zip(parts.parts, whole).map { part, bytes in
                        UnsafeMutableRawBufferPointer(rebasing: bytes[part.runs(of: tile, in: shape).ranges.first { _ in true } ?? 0..<0])
                    }
                    let start = tile.lowerBound * columns
                    body(
                        tile, slices,
                        UnsafeMutableBufferPointer(
                            rebasing: values.bytes.assumingMemoryBound(to: UInt16.self)[start..<(start + tile.count * columns)]))
                }
            }
            let seconds = Turns.medians(
                rounds: rounds,
                [
                    { copy.bytes.copyMemory(from: UnsafeRawBufferPointer(values.bytes)) },
                    {
                        tiles { tile, slices, values in
                            try? layout.encode(UnsafeBufferPointer(values), rows: tile, shape: shape, into: slices)
                        }
                    },
                    {
                        tiles { tile, slices, values in
                            let start = tile.lowerBound * columns
                            let target = copy.bytes.assumingMemoryBound(to: UInt16.self)[start..<(start + tile.count * columns)]
                            layout.decode(
                                slices.map { UnsafeRawBufferPointer($0) }, rows: tile, shape: shape,
                                into: UnsafeMutableBufferPointer(rebasing: target))
                        }
                    },
                ])
            let rate = Double(shape.count * 2) / 1e9
            print(
                "\(target.name): memcpy \((rate / seconds[0]).rounded(to: 1)) GB/s, encode \((rate / seconds[1]).rounded(to: 3)) GB/s = \((seconds[0] / seconds[1] * 100).rounded(to: 0)) %, decode \((rate / seconds[2]).rounded(to: 3)) GB/s = \((seconds[0] / seconds[2] * 100).rounded(to: 0)) %"
            )
        }
    }

    /// Values spread like a trained weight's: a sum of uniform numbers, scaled to a standard deviation near 0.02.
    private func fill(_ values: UnsafeMutableBufferPointer<UInt16>) {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        let pattern = (0..<65536).map { _ -> UInt16 in
            var sum: Float = 0
            for _ in 0..<6 {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                sum += Float(state >> 40) / Float(1 << 24) - 0.5
            }
            return BFloat16(rounding: sum * 0.028).bits
        }
        for index in values.indices { values[index] = pattern[index & 65535] }
    }
}
