import Tensors

/// Gate and up of an expert kept apart, seen as the one matrix that gpt-oss has: rows 0, 2, ... are the gate's, rows 1, 3, ... the other's. Either half
/// has a layout of its own. Read only.
package struct PairedRowsLayout: PairedLayout {
    package let gate: any WeightLayout
    package let up: any WeightLayout

    /// Nil if a row of the whole has no place of its own: halves that pack three rows into a word.
    package init?(gate: any WeightLayout, up: any WeightLayout) {
        let half = MatrixShape(rows: 96, columns: 96)
        for part in gate.parts(of: half) + up.parts(of: half) where Self.paired(part.rows) == nil { return nil }
        self.gate = gate
        self.up = up
    }

    package var name: String {
        if isDense, gate.name == up.name { return gate.name }
        return (gate.name == up.name ? gate.name : gate.name + " and " + up.name) + ", gate and up apart"
    }
    package var isJoinedFromParts: Bool { true }
    package var isDense: Bool { gate.isDense && up.isDense }
    package var rowAlignment: Int { 2 * leastCommonMultiple(gate.rowAlignment, up.rowAlignment) }
    package var preferredRows: Int { 2 * max(gate.preferredRows, up.preferredRows) }
    package func groupColumns(of columns: Int) -> Int { min(gate.groupColumns(of: columns), up.groupColumns(of: columns)) }
    package var hasSignedScales: Bool { gate.hasSignedScales || up.hasSignedScales }

    private static func half(_ shape: MatrixShape) -> MatrixShape { MatrixShape(rows: shape.rows / 2, columns: shape.columns) }

    /// How a half's stored rows follow the rows of the whole.
    private static func paired(_ rows: WeightPart.Rows) -> WeightPart.Rows? {
        switch rows {
        case .every(let count): .every(2 * count)
        case .packed(let bits): bits % 2 == 0 ? .packed(bits: bits / 2) : nil
        case .along(let bits): bits % 2 == 0 ? .along(bits: bits / 2) : nil
        case .whole: .whole
        }
    }

    package func half(_ index: Int) -> any WeightLayout { index == 0 ? gate : up }

    /// The parts of either half, among those of the whole.
    package func places(of half: Int, in shape: MatrixShape) -> Range<Int> {
        let count = gate.parts(of: Self.half(shape)).count
        return half == 0 ? 0..<count : count..<count + up.parts(of: Self.half(shape)).count
    }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        zip(GptOssExperts.halves, [gate, up]).flatMap { module, layout in
            layout.parts(of: Self.half(shape)).map { part in
                WeightPart(module + "." + part.leaf, part.type, part.shape, rows: Self.paired(part.rows) ?? .whole)
            }
        }
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.rows % 2 != 0 ? "an odd number of rows" : gate.obstacle(to: Self.half(shape)) ?? up.obstacle(to: Self.half(shape))
    }

    package func fault(in part: WeightPart, _ bytes: UnsafeRawBufferPointer) -> StoredFault? {
        for (module, layout) in zip(GptOssExperts.halves, [gate, up]) where part.leaf.hasPrefix(module + ".") {
            var own = part
            own.leaf.removeFirst(module.utf8.count + 1)
            return layout.fault(in: own, bytes)
        }
        return defaultFault(in: part, bytes)
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) { join(parts, rows: rows, shape: shape, into: values) { $0.decode($1, rows: $2, shape: $3, into: $4) } }

    package var exceedsBF16: Bool { gate.exceedsBF16 || up.exceedsBF16 }
    package var staysWideForCodes: Bool { [gate, up].allSatisfy { $0.isPlainBF16 || ($0 as? any WideLayout)?.staysWideForCodes == true } }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) { join(parts, rows: rows, shape: shape, into: target) { $0.decodeWidest($1, rows: $2, shape: $3, into: $4) } }

    /// Brings the values of both halves, as `decode` writes them, to every other row.
    private func join<Value: BitwiseCopyable>(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<Value>,
        decode: (any WeightLayout, [UnsafeRawBufferPointer], Range<Int>, MatrixShape, UnsafeMutableBufferPointer<Value>) -> Void
    ) {
        let columns = shape.columns, own = rows.lowerBound / 2..<rows.upperBound / 2
        withUnsafeTemporaryAllocation(of: Value.self, capacity: max(1, own.count * columns)) { half in
            guard let source = half.baseAddress, let target = values.baseAddress else { return }
            for (index, layout) in [gate, up].enumerated() {
                decode(
                    layout, Array(parts[places(of: index, in: shape)]), own, Self.half(shape),
                    UnsafeMutableBufferPointer(rebasing: half[..<(own.count * columns)]))
                for row in 0..<own.count { (target + (2 * row + index) * columns).update(from: source + row * columns, count: columns) }
            }
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) { throw .readOnly }
}

/// Two halves with the same parts, row after row, as the one matrix that they are: the same codes and scales.
struct RowPairing: Repacking {
    let from: PairedRowsLayout
    let target: any WeightLayout
    var source: any WeightLayout { from }
    var needsScales: Bool { false }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? { nil }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        for half in 0..<2 {
            for (part, target) in zip(parts[from.places(of: half, in: shape)], targets) {
                let size = target.count / max(1, rows.count)
                for row in 0..<rows.count / 2 {
                    UnsafeMutableRawBufferPointer(rebasing: target[(2 * row + half) * size..<(2 * row + half + 1) * size])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: part[row * size..<(row + 1) * size]))
                }
            }
        }
    }
}
