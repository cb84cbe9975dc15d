/// A number of bytes in the unit a person would use.
package struct ByteSize: CustomStringConvertible {
    package var bytes: Int

    package init(_ bytes: Int) { self.bytes = bytes }

    package var description: String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(bytes)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        if unit == 0 { return "\(bytes) B" }
        let tenths = (value * 10).rounded() / 10
        return tenths == tenths.rounded() && tenths >= 10 ? "\(Int(tenths)) \(units[unit])" : "\(tenths) \(units[unit])"
    }

    /// Parses "2GiB", "512M", "5 GB" (powers of 1000 for kB, MB, GB, TB; powers of 1024 for KiB ... and bare K, M, G, T).
    package init?(parsing text: String) {
        let digits = text.prefix { $0.isNumber || $0 == "." }
        let unit = text.dropFirst(digits.count).trimmingPrefix(while: \.isWhitespace).lowercased()
        let factors: [String: Double] = [
            "": 1, "b": 1, "k": 1024, "kib": 1024, "kb": 1000, "m": 1_048_576, "mib": 1_048_576, "mb": 1_000_000, "g": 1_073_741_824,
            "gib": 1_073_741_824, "gb": 1_000_000_000, "t": 1_099_511_627_776, "tib": 1_099_511_627_776, "tb": 1_000_000_000_000,
        ]
        guard let number = Double(digits), let factor = factors[unit], number * factor >= 1, number * factor < 9e18 else { return nil }
        bytes = Int(number * factor)
    }
}
