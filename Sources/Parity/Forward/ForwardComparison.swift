import Architectures
import CKernels
import Foundation
import ReferenceModels

/// How far a candidate's forward pass is from the reference's over the same tokens.
package struct ForwardComparison: Sendable {
    /// The residual stream after one layer, and the choice of experts in it. Sums over all batches.
    package struct Layer: Sendable {
        package let layer: Int
        /// Rows of the residual stream that were compared.
        package private(set) var rows = 0
        private var sums = ck_error_sums()
        private var reached = Set<Int>()
        private var chosen = 0
        private var shared = 0
        private var shift = 0.0
        private var experts = 0
        package private(set) var flippedExperts = 0
        /// Tokens for which another group of experts was used.
        package private(set) var flippedGroups = 0

        init(layer: Int) { self.layer = layer }

        /// 10 log10(sum r^2 / sum (r - c)^2).
        package var sqnr: Double { sums.noise == 0 && sums.different == 0 ? .infinity : 10 * log10(sums.signal / sums.noise) }

        package var cosine: Double {
            let norms = (sums.signal * sums.candidate).squareRoot()
            return sums.different == 0 ? 1 : norms == 0 ? 0 : sums.product / norms
        }

        /// Share of chosen experts that both sides chose; nil in dense layers.
        package var expertAgreement: Double? { chosen == 0 ? nil : Double(shared) / Double(chosen) }
        /// Mean absolute difference of the routing weights, experts that only one side chose counted with their whole weight.
        package var weightShift: Double { chosen == 0 ? 0 : shift / Double(chosen) }
        /// Experts that no token of the reference reached.
        package var unreachedExperts: Int { experts - reached.count }

        mutating func add(_ reference: HiddenRows, _ candidate: Activations) {
            rows += reference.count
            for row in 0..<reference.count { ck_f32_error(reference.values[row], candidate[row], candidate.columns, &sums) }
        }

        mutating func add(_ a: Routing, _ b: Routing, _ router: ModelConfiguration.Router) {
            experts = router.experts
            let groupSize = experts / (router.groupScore == .none ? 1 : router.groups)
            for token in a.experts.indices {
                let (left, right) = (Set(a.experts[token]), Set(b.experts[token]))
                reached.formUnion(left)
                chosen += left.count
                shared += left.intersection(right).count
                flippedExperts += left.subtracting(right).count
                if Set(left.map { $0 / groupSize }) != Set(right.map { $0 / groupSize }) { flippedGroups += 1 }
                let leftWeights = Dictionary(zip(a.experts[token], a.weights[token])) { first, _ in first }
                let rightWeights = Dictionary(zip(b.experts[token], b.weights[token])) { first, _ in first }
                for expert in left.union(right) { shift += Double(abs((leftWeights[expert] ?? 0) - (rightWeights[expert] ?? 0))) }
            }
        }
    }

    package var predictions: PredictionComparison
    /// Predictions of the multi-token-prediction module, where both sides have one.
    package var mtp: PredictionComparison?
    /// Layers whose residual stream or routing the reference knows.
    package var layers: [Layer]

    /// The layer in which the sides part most, compared with the layer before: where to look for a culprit.
    package var worstStep: Layer? {
        var previous = Double.infinity
        var worst: (drop: Double, layer: Layer)?
        for layer in layers {
            // A stream that is no number has parted from the other altogether.
            let drop = min(previous, 200) - (layer.sqnr.isNaN ? -200 : min(layer.sqnr, 200))
            if drop > worst?.drop ?? 0 { worst = (drop, layer) }
            previous = layer.sqnr.isNaN ? -200 : layer.sqnr
        }
        return worst?.layer
    }
}
