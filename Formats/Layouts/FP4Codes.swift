import Tensors

/// Two E2M1 codes to a byte, the even column in the low nibble: what all FP4 layouts share.
enum FP4Codes {
    /// The BF16 values of a run of codes times one F32 scale, each product rounded to F32 and then to BF16.
    static func decode(
        _ bytes: UnsafePointer<UInt8>, count: Int, scale: Float, negativeZero: Bool = true, into values: UnsafeMutablePointer<UInt16>
    ) {
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: 16) { table in
            for code in 0..<16 { table[code] = BFloat16(rounding: Float4E2M1(bits: UInt8(code)).value * scale).bits }
            if !negativeZero { table[8] = table[0] }
            for index in 0..<count / 2 {
                values[2 * index] = table[Int(bytes[index] & 15)]
                values[2 * index + 1] = table[Int(bytes[index] >> 4)]
            }
        }
    }

    /// Stores the codes that `code` gives for each column.
    @inline(__always)
    static func encode(_ bytes: UnsafeMutablePointer<UInt8>, count: Int, _ code: (_ column: Int) -> UInt8) {
        for index in 0..<count / 2 { bytes[index] = Nibbles.pair(low: code(2 * index), high: code(2 * index + 1)) }
    }

    /// Half-even rounding with the sign of `value < 0`, as compressed-tensors and ModelOpt have it: a negative number that rounds to
    /// zero becomes negative zero, negative zero itself does not.
    static func rounded(_ value: Float) -> UInt8 {
        value.isNaN ? 0 : Float4E2M1(rounding: value.magnitude).bits | (value < 0 ? 8 : 0)
    }

    /// Nearest with ties to the smaller magnitude and no negative zero, as MLX's search for the smallest difference finds it.
    static func roundedDown(_ value: Float) -> UInt8 {
        let magnitude = value.magnitude
        let thresholds: [Float] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5]
        let code = UInt8(thresholds.count { magnitude > $0 })
        return code == 0 ? 0 : code | (value < 0 ? 8 : 0)
    }
}
