import Conversion
import Foundation

extension Double {
    /// Four significant digits, without an exponent where a person would not write one.
    package var short: String {
        guard isFinite, self != 0 else { return "\(self)" }
        let magnitude = Int(Foundation.log10(abs(self)).rounded(.down))
        let factor = Foundation.pow(10.0, Double(3 - magnitude))
        return "\((self * factor).rounded() / factor)"
    }

    package var percent: String { "\((self * 100).short) %" }

    var decibels: String { isFinite ? "\((self * 100).rounded() / 100) dB" : self > 0 ? "infinite dB" : "\(self) dB" }
}
