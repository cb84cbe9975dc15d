import Tensors

/// FP8 blocks whose scales have another type.
struct BlockScaleRepacking: Repacking {
    let from: BlockScaledFP8Layout
    let to: BlockScaledFP8Layout

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }
    var needsScales: Bool { to.roundsScaleUp && !from.roundsScaleUp }

    static func offer(from: BlockScaledFP8Layout, to: BlockScaledFP8Layout) -> RepackingOffer {
        guard from.blockRows == to.blockRows, from.blockColumns == to.blockColumns else {
            return .obstacle("blocks of \(from.blockRows)x\(from.blockColumns) do not make blocks of \(to.blockRows)x\(to.blockColumns)")
        }
        return .possible([BlockScaleRepacking(from: from, to: to)])
    }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        guard needsScales else { return nil }
        let odd = from.scaleType.scales(in: parts[1]).first { $0 <= 0 || $0.significand != 1 }
        return odd.map { "the scale \($0) is no power of two" }
    }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        targets[0].copyMemory(from: parts[0])
        for (index, scale) in from.scaleType.scales(in: parts[1]).enumerated() { to.scaleType.store(scale, in: targets[1], at: index) }
    }
}
