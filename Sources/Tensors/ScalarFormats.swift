/// A number stored in a few bits: its exact value as F32 or F64, and rounding to it.
///
/// Every conversion rounds to nearest, ties to the even code, and keeps the sign of zero and of NaN.
package protocol StoredScalar: Sendable, Equatable {
    associatedtype Bits: FixedWidthInteger & UnsignedInteger & Sendable
    var bits: Bits { get }
    init(bits: Bits)
    /// The exact value.
    var value: Float { get }
    /// The nearest representable value.
    init(rounding value: Float)
}

/// Rounds to a sign-exponent-mantissa code with IEEE-style subnormals; the caller has dealt with NaN and overflow.
/// Returns the code without its sign: adding one to the largest mantissa carries into the exponent, as it must.
@inline(__always)
private func magnitudeCode(_ value: Float, mantissaBits: UInt32, bias: Int32) -> UInt32 {
    let bits = value.magnitude.bitPattern
    let smallestNormal = Float(sign: .plus, exponent: Int(1 - bias), significand: 1)
    if value.magnitude < smallestNormal {
        // Subnormals are whole multiples of one step; scaling by a power of two is exact.
        let steps = value.magnitude * Float(sign: .plus, exponent: Int(bias) - 1 + Int(mantissaBits), significand: 1)
        return UInt32(steps.rounded(.toNearestOrEven))
    }
    let shift = 23 - mantissaBits
    let rounded = bits + ((1 << (shift - 1)) - 1) + ((bits >> shift) & 1)
    return (rounded >> shift) - (UInt32(127 - bias) << mantissaBits)
}

/// The exact magnitude of a code with IEEE-style subnormals.
@inline(__always)
private func magnitudeValue(_ code: UInt32, mantissaBits: UInt32, bias: Int32) -> Float {
    let exponent = Int32(code >> mantissaBits)
    let mantissa = code & ((1 << mantissaBits) - 1)
    if exponent == 0 { return Float(mantissa) * Float(sign: .plus, exponent: Int(1 - bias) - Int(mantissaBits), significand: 1) }
    return Float(bitPattern: UInt32(exponent - bias + 127) << 23 | mantissa << (23 - mantissaBits))
}

/// Brain floating point: the high half of an F32.
package struct BFloat16: StoredScalar {
    package var bits: UInt16
    package init(bits: UInt16) { self.bits = bits }
    package var value: Float { Float(bitPattern: UInt32(bits) << 16) }
    package init(rounding value: Float) {
        let u = value.bitPattern
        bits = value.isNaN ? UInt16(u >> 16) | 0x40 : UInt16((UInt64(u) + 0x7FFF + UInt64((u >> 16) & 1)) >> 16)
    }
}

/// IEEE 754 binary16.
package struct Binary16: StoredScalar {
    package var bits: UInt16
    package init(bits: UInt16) { self.bits = bits }
    package var value: Float {
        let sign = UInt32(bits & 0x8000) << 16
        let magnitude = UInt32(bits & 0x7FFF)
        if magnitude >= 0x7C00 {
            return Float(bitPattern: sign | 0x7F80_0000 | (magnitude & 0x3FF) << 13 | (magnitude > 0x7C00 ? 0x40_0000 : 0))
        }
        return Float(bitPattern: sign | magnitudeValue(magnitude, mantissaBits: 10, bias: 15).bitPattern)
    }
    package init(rounding value: Float) {
        let sign = UInt16(value.bitPattern >> 16) & 0x8000
        if value.isNaN {
            bits = sign | 0x7E00 | UInt16(truncatingIfNeeded: value.bitPattern >> 13) & 0x3FF
        } else {
            bits = sign | (value.magnitude >= 65520 ? 0x7C00 : UInt16(magnitudeCode(value, mantissaBits: 10, bias: 15)))
        }
    }
}

/// OCP FP8 E4M3 (fn): no infinity, NaN = 0x7F and 0xFF, greatest 448.
package struct Float8E4M3: StoredScalar {
    package static let greatest: Float = 448
    package var bits: UInt8
    package init(bits: UInt8) { self.bits = bits }
    package var value: Float {
        let magnitude = bits & 0x7F == 0x7F ? Float.nan : magnitudeValue(UInt32(bits & 0x7F), mantissaBits: 3, bias: 7)
        return bits & 0x80 == 0 ? magnitude : -magnitude
    }
    /// Values beyond +-448, infinities included, become +-448: casts of overflowing values are not portable between
    /// libraries, so they never happen here.
    package init(rounding value: Float) {
        let sign = UInt8(value.bitPattern >> 24) & 0x80
        let code: UInt8 =
            value.isNaN ? 0x7F : value.magnitude >= Self.greatest ? 0x7E : UInt8(magnitudeCode(value, mantissaBits: 3, bias: 7))
        bits = sign | code
    }
}

/// OCP FP8 E5M2: IEEE-like, greatest 57344.
package struct Float8E5M2: StoredScalar {
    package var bits: UInt8
    package init(bits: UInt8) { self.bits = bits }
    package var value: Float {
        let code = UInt32(bits & 0x7F)
        let magnitude = code > 0x7C ? .nan : code == 0x7C ? .infinity : magnitudeValue(code, mantissaBits: 2, bias: 15)
        return bits & 0x80 == 0 ? magnitude : -magnitude
    }
    /// Overflow goes to infinity, as in IEEE 754.
    package init(rounding value: Float) {
        let sign = UInt8(value.bitPattern >> 24) & 0x80
        let code: UInt8 =
            value.isNaN ? 0x7F : value.magnitude >= 61440 ? 0x7C : UInt8(magnitudeCode(value, mantissaBits: 2, bias: 15))
        bits = sign | code
    }
}

/// OCP E8M0: a power of two, 2^(b - 127); 0xFF is NaN; there is no zero and no sign.
package struct Float8E8M0: StoredScalar {
    package var bits: UInt8
    package init(bits: UInt8) { self.bits = bits }
    package var value: Float {
        switch bits {
        case 0xFF: .nan
        case 0: Float(bitPattern: 0x0040_0000)  // 2^-127, a subnormal F32
        default: Float(bitPattern: UInt32(bits) << 23)
        }
    }
    /// The nearest power of two by the significand, 1.5 and above going up, as PyTorch and ml_dtypes round. Below 2^-126 anything
    /// above 2^-127 goes up. Negative numbers, infinity and NaN have no code: NaN; zero becomes the smallest, 2^-127.
    package init(rounding value: Float) {
        let u = value.bitPattern
        guard value.sign == .plus || value == 0, value.isFinite else {
            bits = 0xFF
            return
        }
        let exponent = (u >> 23) & 0xFF
        let half = u & 0x40_0000 != 0
        let up = exponent == 0 ? u & 0x7F_FFFF > 0x40_0000 : half
        bits = UInt8(min(exponent + (up ? 1 : 0), 0xFF))
    }
}

/// OCP FP4 E2M1 in the low four bits: magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6.
package struct Float4E2M1: StoredScalar {
    package static let greatest: Float = 6
    package var bits: UInt8
    package init(bits: UInt8) { self.bits = bits & 0xF }
    package var value: Float {
        let magnitude = magnitudeValue(UInt32(bits & 7), mantissaBits: 1, bias: 1)
        return bits & 8 == 0 ? magnitude : -magnitude
    }
    /// Saturates at +-6. There is no NaN: a NaN becomes negative zero, as in ml_dtypes; callers reject NaN before they come here.
    package init(rounding value: Float) {
        guard !value.isNaN else {
            bits = 8
            return
        }
        let sign = UInt8(value.bitPattern >> 28) & 8
        bits = sign | (value.magnitude >= Self.greatest ? 7 : UInt8(magnitudeCode(value, mantissaBits: 1, bias: 1)))
    }
}

/// Four-bit integers, two to a byte, low nibble first.
package enum Nibbles {
    /// The signed value of a two's-complement nibble: -8...7.
    package static func signed(_ nibble: UInt8) -> Int8 { Int8(bitPattern: nibble << 4) >> 4 }

    package static func low(_ byte: UInt8) -> UInt8 { byte & 0xF }

    package static func high(_ byte: UInt8) -> UInt8 { byte >> 4 }

    package static func pair(low: UInt8, high: UInt8) -> UInt8 { low & 0xF | high << 4 }
}
