import Tensors

/// Integers with scales and zero points in another order: int4 of AWQ, GPTQ, compressed-tensors and MLX, where group geometry agrees.
struct IntegerRepacking: Repacking {
    let from: any IntegerCodedLayout
    let to: any IntegerCodedLayout

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }

    static func offer(from: any IntegerCodedLayout, to: any IntegerCodedLayout, shape: MatrixShape) -> RepackingOffer {
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
                ? [IntegerRepacking(from: from, to: to)] : targets.map { IntegerRepacking(from: from, to: $0) })
    }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
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

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        from.withCodes(parts, rows: rows, shape: shape) { codes, groups in
            to.store(codes: codes, groups: groups, rows: rows, shape: shape, into: targets)
        }
    }
}
