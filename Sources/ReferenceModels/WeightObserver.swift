import Checkpoints
import Formats
import Runtime
import Tensors

/// The inputs of some weights over the observed tokens. They are computed as they are asked for, piece by piece, with the weights as
/// they are at that time; asking again computes them again.
package struct ObservedInputs {
    package let columns: Int
    /// Rows in all pieces.
    package let count: Int
    /// Calls the body with every piece, in order.
    package let visit: (_ body: (Activations) throws -> Void) throws -> Void
}

/// Watches a forward pass come to its weights, one group with common inputs after another, and may replace them by putting others into the
/// pass's ``WeightOverlay``.
package protocol WeightObserver: AnyObject {
    /// The weights will be used next. Everything before them has its final weights.
    /// - Parameters:
    ///   - inputs: of the tokens that reach the weights.
    ///   - pooled: for an expert, inputs of tokens whether they are routed to it or not: for experts that few tokens reach.
    func willUse(_ names: [String], inputs: ObservedInputs, pooled: ObservedInputs?) throws
    /// The weights are not needed any more.
    func didUse(_ names: [String])
    /// The routing of the layer that comes next, if it is not to be the pass's own.
    func routing(layer: Int) throws -> Routing?
}

/// Weights that a forward pass uses in place of the checkpoint's, as stored parts in memory.
package final class WeightOverlay: Sendable {
    private let entries = Lock<[String: WeightReplacement]>([:])

    package init() {}

    package subscript(name: String) -> WeightReplacement? {
        get { entries.withLock { $0[name] } }
        set { entries.withLock { $0[name] = newValue } }
    }
}
