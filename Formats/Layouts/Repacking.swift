import Tensors

/// Stores the very codes and scales of one layout in another's order and names: nothing is rounded, nothing is chosen anew. Each is a rule in the
/// folder of the layouts that it leads from or to.
package protocol Repacking: Sendable {
    var source: any WeightLayout { get }
    /// The asked layout, or a variant of it that the same readers take and that holds the source's scales.
    var target: any WeightLayout { get }

    /// Whether ``obstacle(_:rows:shape:)`` must see the stored scales, or the codes as well, before this can be relied on.
    var needsScales: Bool { get }
    /// Whether the check reads the codes too, which are floats: zero bytes are zeros.
    var needsCodes: Bool { get }

    /// Why the scales of a tile cannot be held exactly; nil if they can. Of `parts` the codes may be missing unless ``needsCodes``.
    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String?

    /// Whether the scales of a tile alone show that every code fits.
    func isProvenByScales(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> Bool

    /// Stores the tile in the target's parts. The scales have been checked.
    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer])
}

extension Repacking {
    package var needsScales: Bool { true }
    package var needsCodes: Bool { false }
    package func isProvenByScales(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> Bool { false }
}

/// What two layouts have in common.
package enum RepackingOffer {
    /// Different kinds of numbers; the values have to be decoded and encoded.
    case unrelated
    /// The same kind, but this stands in the way.
    case obstacle(String)
    /// Ways to do it, the first that the scales allow being the best.
    case possible([any Repacking])
}

extension LayoutRegistry {
    /// What the families know of ways from one layout to another.
    package static func repacking(from source: any WeightLayout, to target: any WeightLayout, shape: MatrixShape) -> RepackingOffer {
        for family in families {
            let offer = family.repacking(from: source, to: target, shape: shape)
            if case .unrelated = offer { continue }
            return offer
        }
        return .unrelated
    }
}

/// The same bytes under other names, or in another order of rows.
package struct Renaming: Repacking {
    package let source: any WeightLayout
    package let target: any WeightLayout
    package var needsScales: Bool { false }

    package init(source: any WeightLayout, target: any WeightLayout) {
        self.source = source
        self.target = target
    }

    package func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? { nil }

    package func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        for (part, target) in zip(parts, targets) { target.copyMemory(from: part) }
    }
}
