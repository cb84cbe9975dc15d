import Formats

/// A quantizer by its name, as plans and recipes hold it.
package struct QuantizerName: RawRepresentable, Sendable, Hashable, CaseIterable {
    /// Every quantizer. Adding one adds a line here.
    package static let registry: [any Quantizer.Type] = [
        NearestRounding.self, ScaleSearch.self, HalfQuadratic.self, ImportanceSearch.self, FeedbackRounding.self, ScaledSearch.self,
    ]

    package static let allCases = registry.map { QuantizerName($0) }

    /// The layout's own encoder, which plans take where nothing else is said.
    package static let rtn = QuantizerName(NearestRounding.self)
    /// What needs nothing, for weights that no token reached, or that are not part of the forward pass.
    package static let mse = QuantizerName(ScaleSearch.self)

    package let method: any Quantizer.Type

    private init(_ method: any Quantizer.Type) { self.method = method }

    package init?(rawValue: String) {
        guard let found = Self.registry.first(where: { $0.name == rawValue }) else { return nil }
        self.init(found)
    }

    package var rawValue: String { method.name }

    package static func == (a: Self, b: Self) -> Bool { a.rawValue == b.rawValue }

    package func hash(into hasher: inout Hasher) { hasher.combine(rawValue) }

    /// What must be known about the inputs of a weight.
    package var needs: StatisticsNeed { method.needs }

    /// What is taken where nothing is known about the inputs.
    package var withoutStatistics: QuantizerName { needs == .nothing ? self : .mse }

    /// Why a layout cannot take it; nil if it can.
    package func obstacle(to layout: any WeightLayout) -> String? {
        if layout.isDense || method.serves(layout) { return nil }
        let others = Self.allCases.filter { $0.method.serves(layout) }.map(\.rawValue)
        let takes = others.count > 1 ? others.dropLast().joined(separator: ", ") + " and " + others[others.count - 1] : (others.first ?? "none")
        return "\(layout.name) takes the quantizer \(takes), not \(rawValue)"
    }
}
