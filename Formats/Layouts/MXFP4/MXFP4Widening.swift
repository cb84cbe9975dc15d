import Runtime
import Tensors

/// E2M1 with power-of-two scales as E4M3 with one power of two a block.
struct MXFP4Widening: Repacking {
    let from: MXFP4Layout
    let to: BlockScaledFP8Layout

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }
    var needsCodes: Bool { true }

    /// FP8 blocks whose scales are powers of two, which any FP8 blocks may have: with them E2M1 numbers stay what they are.
    private var poweredTarget: BlockScaledFP8Layout {
        var layout = to
        layout.roundsScaleUp = true
        return layout
    }

    /// Whether the scales alone show that every code of a tile fits: where the exponents inside each block lie close together, E4M3 reaches
    /// from the largest value that may be there to the smallest step that may.
    ///
    /// With the exponent E of a block's largest value 6 x 2^E the block's scale is at most 2^(E - 6) (the power of two above 6 x 2^E / 448), and
    /// a value is a multiple of 2^(e - 1). E4M3's step is 2^-9: e - 1 - (E - 6) >= -9, so the exponents may spread over 14.
    func isProvenByScales(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> Bool {
        let groups = shape.columns / 32
        let across = to.blockColumns / 32
        let exponents = parts[1]
        for top in stride(from: 0, to: rows.count, by: to.blockRows) {
            for left in stride(from: 0, to: groups, by: across) {
                var lowest = UInt8.max, highest = UInt8.min
                for row in top..<min(top + to.blockRows, rows.count) {
                    for group in left..<min(left + across, groups) {
                        let exponent = exponents[row * groups + group]
                        lowest = min(lowest, exponent)
                        highest = max(highest, exponent)
                    }
                }
                if highest == lowest, holdsAlone(lowest) { continue }
                // Exponents near the ends of the range meet subnormal numbers and scales; the codes decide there.
                guard highest - lowest <= 14, highest < 240, lowest > 16 else { return false }
            }
        }
        return true
    }

    /// Whether all codes are zeros of either sign, whatever their exponents.
    private static func isZero(_ codes: UnsafeRawBufferPointer) -> Bool {
        let whole = codes.count & ~7
        for start in stride(from: 0, to: whole, by: 8)
        where codes.loadUnaligned(fromByteOffset: start, as: UInt64.self) & 0x7777_7777_7777_7777 != 0 { return false }
        return codes[whole...].allSatisfy { $0 & 0x77 == 0 }
    }

    /// Whether blocks of this one exponent are held whatever their codes are: tried with every largest code, and all below it.
    private func holdsAlone(_ exponent: UInt8) -> Bool {
        let key = Key(exponent: exponent, scaleType: to.scaleType)
        if let known = Self.alone.withLock({ $0[key] }) { return known }
        let holds = (0...7).allSatisfy { largest in
            // Both signs of every number up to the largest, in turn.
            let codes = (0..<32).map { UInt8($0 / 2 % (largest + 1) | $0 % 2 << 3) }
            let packed = (0..<16).map { codes[2 * $0] | codes[2 * $0 + 1] << 4 }
            return packed.withUnsafeBytes { packed in
                withUnsafeBytes(of: exponent) { scale in obstacle([packed, scale], rows: 0..<1, shape: MatrixShape(rows: 1, columns: 32)) == nil }
            }
        }
        Self.alone.withLock { $0[key] = holds }
        return holds
    }

    private struct Key: Hashable {
        var exponent: UInt8
        var scaleType: ScalarType
    }

    private static let alone = Lock<[Key: Bool]>([:])

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        if Self.isZero(parts[0]) { return nil }
        let size = rows.count * shape.columns
        let storedParts = target.parts(of: shape)
        let sizes = storedParts.map { $0.runs(of: rows, in: shape).byteCount }
        return withUnsafeTemporaryAllocation(byteCount: 2 * (size * 2 + 64) + sizes.reduce(0) { $0 + $1 + 64 }, alignment: 64) { memory in
            var start = 0
            func take(_ size: Int) -> UnsafeMutableRawBufferPointer {
                defer { start += (size + 63) & ~63 }
                return UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + size])
            }
            let first = take(size * 2).scalars(UInt16.self), second = take(size * 2).scalars(UInt16.self)
            let targets = sizes.map(take)
            source.decode(parts, rows: rows, shape: shape, into: UnsafeMutableBufferPointer(rebasing: first[..<size]))
            let values = UnsafeBufferPointer(UnsafeMutableBufferPointer(rebasing: first[..<size]))
            guard (try? poweredTarget.encode(values, rows: rows, shape: shape, into: targets)) != nil else { return "a scale is NaN" }
            target.decode(
                targets.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: shape, into: UnsafeMutableBufferPointer(rebasing: second[..<size]))
            guard (0..<size).contains(where: { BFloat16(bits: first[$0]).value != BFloat16(bits: second[$0]).value }) else { return nil }
            return "the exponents inside a block spread further than E4M3 reaches"
        }
    }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: max(1, rows.count * shape.columns)) { values in
            source.decode(parts, rows: rows, shape: shape, into: values)
            // Finite by construction: no E2M1 code and no checked exponent is infinite.
            try? poweredTarget.encode(UnsafeBufferPointer(values), rows: rows, shape: shape, into: targets)
        }
    }
}
