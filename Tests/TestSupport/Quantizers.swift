import Recast

/// Quantizers that the product knows by their names only.
extension QuantizerName {
    package static let hqq = QuantizerName(rawValue: "hqq")!
    package static let imatrix = QuantizerName(rawValue: "imatrix")!
    package static let gptq = QuantizerName(rawValue: "gptq")!
    package static let awq = QuantizerName(rawValue: "awq")!
}
