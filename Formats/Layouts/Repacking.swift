import Tensors

/// Stores the very codes and scales of one layout in another's order and names: nothing is rounded, nothing is chosen anew.
public struct Repacking: Sendable {
    /// What two layouts have in common.
    public enum Offer {
        /// Different kinds of numbers; the values have to be decoded and encoded.
        case unrelated
        /// The same kind, but this stands in the way.
        case obstacle(String)
        /// Ways to do it, the first that the scales allow being the best.
        case possible([Repacking])
    }

    private enum Way: Sendable {
        /// Integers with scales and zero points.
        case integers
        /// The same bytes under other names.
        case renaming
        /// FP8 blocks whose scales have another type.
        case blockScales
        /// NVFP4 whose tensor scale is the reciprocal of the other's.
        case reciprocal
        /// E2M1 with power-of-two scales as E4M3 with one power of two a block.
        case widening
    }

    public let source: any WeightLayout
    /// The asked layout, or a variant of it that the same readers take and that holds the source's scales.
    public let target: any WeightLayout
    private let way: Way

    /// Whether ``obstacle(_:rows:shape:)`` must see the stored scales, or the codes as well, before this can be relied on.
    public var needsScales: Bool {
        switch way {
        case .integers:
            true
        case .renaming: false
        case .blockScales: (target as? BlockScaledFP8Layout)?.roundsScaleUp == true && (source as? BlockScaledFP8Layout)?.roundsScaleUp == false
        case .reciprocal, .widening: true
        }
    }

    /// Whether the check reads the codes too.
    public var needsCodes: Bool { way == .widening }

    public static func offer(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> Offer {
        if let from = source as? any IntegerCodedLayout, let to = target as? any IntegerCodedLayout { return integers(from, to, shape) }
        if let from = source as? MXFP4Layout, let to = target as? MXFP4Layout {
            return from == to ? .unrelated : .possible([Repacking(source: from, target: to, way: .renaming)])
        }
        if let from = source as? NVFP4Layout, let to = target as? NVFP4Layout {
            return .possible([
                Repacking(
                    source: from, target: from.isModelOpt == to.isModelOpt ? from : to,
                    way: from.isModelOpt == to.isModelOpt ? .renaming : .reciprocal)
            ])
        }
        if let from = source as? BlockScaledFP8Layout, let to = target as? BlockScaledFP8Layout {
            guard from.blockRows == to.blockRows, from.blockColumns == to.blockColumns else {
                return .obstacle("blocks of \(from.blockRows)x\(from.blockColumns) do not make blocks of \(to.blockRows)x\(to.blockColumns)")
            }
            return .possible([Repacking(source: from, target: to, way: .blockScales)])
        }
        if let from = source as? MXFP4Layout, let to = target as? BlockScaledFP8Layout, to.blockColumns % 32 == 0 {
            return .possible([Repacking(source: from, target: to, way: .widening)])
        }
        return .unrelated
    }

    private static func integers(_ from: any IntegerCodedLayout, _ to: any IntegerCodedLayout, _ shape: MatrixShape) -> Offer {
        guard from.bits == to.bits else { return .obstacle("\(from.bits)-bit codes are not \(to.bits)-bit codes") }
        guard from.hasContiguousGroups else {
            return .obstacle("its groups are scattered by activation order (g_idx), which \(to.name) cannot express")
        }
        let sizes = [from.groupSize, to.groupSize].map { $0 ?? shape.columns }
        guard sizes[0] == sizes[1] else { return .obstacle("groups of \(sizes[0]) columns are not groups of \(sizes[1])") }
        if let obstacle = to.obstacle(to: shape) { return .obstacle(obstacle) }
        // The target's own scale type if it holds every scale, so that there and back gives the same bytes; else the source's.
        let targets: [any IntegerCodedLayout] = [to, to.adopting(scaleType: from.scaleType)]
        return .possible(
            targets[0].scaleType == targets[1].scaleType
                ? [Repacking(source: from, target: to, way: .integers)] : targets.map { Repacking(source: from, target: $0, way: .integers) })
    }

    // MARK: Scales

    /// Why the scales of a tile cannot be held exactly; nil if they can. Of `parts` the codes may be missing unless ``needsCodes``.
    public func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        switch way {
        case .renaming: nil
        case .integers: integerObstacle(parts, rows, shape)
        case .blockScales: blockScaleObstacle(parts)
        case .reciprocal:
            reciprocal(of: parts[2].scalars(Float.self)[0]) == nil ? "no F32 is close enough to the reciprocal of the tensor's scale" : nil
        case .widening: wideningObstacle(parts, rows, shape)
        }
    }

    private func integerObstacle(_ parts: [UnsafeRawBufferPointer], _ rows: Range<Int>, _ shape: MatrixShape) -> String? {
        guard let from = source as? any IntegerCodedLayout, let to = target as? any IntegerCodedLayout else { return nil }
        let count = rows.count * from.groupCount(shape)
        return withUnsafeTemporaryAllocation(of: GroupParameters.self, capacity: max(1, count)) { groups -> String? in
            guard let base = groups.baseAddress else { return nil }
            from.readGroups(parts, rows: rows, shape: shape, into: base)
            guard let bad = (0..<count).first(where: { !to.holds(groups[$0]) }) else { return nil }
            let group = groups[bad]
            let isWhole = group.zero.rounded() == group.zero && group.zero.magnitude < 1_048_576
            let zero = isWhole ? "the zero point \(Int(group.zero))" : "a bias that is no multiple of the scale"
            return "a group with the scale \(group.scale) and \(zero) does not fit \(to.name), which needs \(to.requirement)"
        }
    }

    private func blockScaleObstacle(_ parts: [UnsafeRawBufferPointer]) -> String? {
        guard let from = source as? BlockScaledFP8Layout, needsScales else { return nil }
        let odd = from.scaleType.scales(in: parts[1]).first { $0 <= 0 || $0.significand != 1 }
        return odd.map { "the scale \($0) is no power of two" }
    }

    /// FP8 blocks whose scales are powers of two, which any FP8 blocks may have: with them E2M1 numbers stay what they are.
    private var poweredTarget: any WeightLayout {
        guard var layout = target as? BlockScaledFP8Layout else { return target }
        layout.roundsScaleUp = true
        return layout
    }

    /// Whether the scales alone show that every code of a tile fits: where the exponents inside each block lie close together, E4M3 reaches
    /// from the largest value that may be there to the smallest step that may.
    ///
    /// With the exponent E of a block's largest value 6 x 2^E the block's scale is at most 2^(E - 6) (the power of two above 6 x 2^E / 448), and
    /// a value is a multiple of 2^(e - 1). E4M3's step is 2^-9: e - 1 - (E - 6) >= -9, so the exponents may spread over 14.
    public func isProvenByScales(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> Bool {
        guard case .widening = way, let to = target as? BlockScaledFP8Layout else { return false }
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
                // Exponents near the ends of the range meet subnormal numbers and scales; the codes decide there.
                guard highest - lowest <= 14, highest < 240, lowest > 16 else { return false }
            }
        }
        return true
    }

    private func wideningObstacle(_ parts: [UnsafeRawBufferPointer], _ rows: Range<Int>, _ shape: MatrixShape) -> String? {
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

    /// A tensor scale with which every code and every scale give the same BF16 value as with the reciprocal scale `global`.
    private func reciprocal(of global: Float) -> Float? {
        guard let from = source as? NVFP4Layout, let to = target as? NVFP4Layout, global > 0, global.isFinite else { return nil }
        let inverse = 1 / global
        guard inverse > 0, inverse.isFinite else { return nil }
        // First the number that the target's own encoder stores, if this is it but for rounding, so that there and back gives the
        // same bytes: a BF16, or a BF16 divided by 448 * 6.
        let native = to.isModelOpt ? BFloat16(rounding: inverse * 2688).value / 2688 : BFloat16(rounding: inverse).value
        let candidates =
            ((native - inverse).magnitude <= 4 * inverse.ulp ? [native] : [])
            + [inverse, inverse.nextUp, inverse.nextDown, inverse.nextUp.nextUp, inverse.nextDown.nextDown]
        return candidates.first { candidate in
            (0..<0x7F).allSatisfy { bits in
                let scale = Float8E4M3(bits: UInt8(bits)).value
                let (mine, other) = (from.joined(scale, global), to.joined(scale, candidate))
                return mine == other
                    || (1..<8).allSatisfy { code in
                        let value = Float4E2M1(bits: UInt8(code)).value
                        return BFloat16(rounding: value * mine).bits == BFloat16(rounding: value * other).bits
                    }
            }
        }
    }

    // MARK: Codes

    /// Stores the tile in the target's parts. The scales have been checked.
    public func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        switch way {
        case .integers:
            guard let from = source as? any IntegerCodedLayout, let to = target as? any IntegerCodedLayout else { return }
            from.withCodes(parts, rows: rows, shape: shape) { codes, groups in
                to.store(codes: codes, groups: groups, rows: rows, shape: shape, into: targets)
            }
        case .renaming:
            for (part, target) in zip(parts, targets) { target.copyMemory(from: part) }
        case .blockScales:
            guard let from = source as? BlockScaledFP8Layout, let to = target as? BlockScaledFP8Layout else { return }
            targets[0].copyMemory(from: parts[0])
            for (index, scale) in from.scaleType.scales(in: parts[1]).enumerated() { to.scaleType.store(scale, in: targets[1], at: index) }
        case .reciprocal:
            for index in 0..<2 { targets[index].copyMemory(from: parts[index]) }
            targets[2].scalars(Float.self)[0] = reciprocal(of: parts[2].scalars(Float.self)[0]) ?? .nan
        case .widening:
            withUnsafeTemporaryAllocation(of: UInt16.self, capacity: max(1, rows.count * shape.columns)) { values in
                source.decode(parts, rows: rows, shape: shape, into: values)
                // Finite by construction: no E2M1 code and no checked exponent is infinite.
                try? poweredTarget.encode(UnsafeBufferPointer(values), rows: rows, shape: shape, into: targets)
            }
        }
    }
}
