import Architectures

extension WeightName {
    /// Whether this is no weight but what lies beside one: scales of activations, of the cache, of outputs.
    package static func isCompanion(_ name: String) -> Bool { LayoutRegistry.activationLeaves.contains(String(leaf(name))) }
}
