import Quantization

/// How weights are quantized with the help of their inputs. Everything here decides about bytes.
public struct CalibrationSettings: Sendable, Equatable {
    /// The share of the mean diagonal that is added to the second moments' diagonal; the peers' default.
    public var damping = 0.01
    /// Columns of large inputs first. Off, columns go from left to right.
    public var ordersByActivation = true
    /// Several scales are tried, and each row keeps those with which its outputs err least; off, they are the layout's round-to-nearest scales.
    public var searchesScales = true
    /// Experts that fewer tokens reach are quantized with the inputs of all tokens, whether routed to them or not.
    public var expertFloor = 32
    /// Tokens go to the experts that the original model sends them to.
    public var keepsRouting = false

    /// The settings that `recast` takes by default.
    public init() {}

    package var summary: String {
        "damping \(damping), \(ordersByActivation ? "activation order" : "column order"), \(searchesScales ? "searched" : "round-to-nearest") scales, expert floor \(expertFloor)"
            + (keepsRouting ? ", routing kept" : "")
    }
}

/// What a calibration noticed.
package struct CalibrationReport: Sendable, Equatable {
    /// Weights quantized with their own inputs.
    package var calibrated = 0
    /// Weights of experts below the floor, with how many tokens reached them: quantized with pooled inputs.
    package var pooled: [(name: String, tokens: Int)] = []
    /// Weights whose second moments needed more damping than asked for.
    package var damped: [(name: String, damping: Double)] = []

    package init() {}

    package static func == (a: Self, b: Self) -> Bool {
        a.calibrated == b.calibrated && a.pooled.map(\.name) == b.pooled.map(\.name) && a.damped.map(\.name) == b.damped.map(\.name)
    }
}
