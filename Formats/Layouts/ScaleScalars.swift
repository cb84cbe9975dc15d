import Tensors

/// Scales that are powers of two, stored as exponents with a bias of 127.
enum PowerOfTwoScale {
    /// 1 / 2^(exponent - 127), of which F32 holds every one; `exponent` is at most 254.
    @inline(__always)
    static func reciprocal(_ exponent: UInt8) -> Float { Float(bitPattern: exponent == 254 ? 0x0040_0000 : (254 - UInt32(exponent)) << 23) }
}

extension ScalarType {
    /// Types that scales are stored in.
    package var isScale: Bool { [.f32, .bf16, .f16, .f8E8M0].contains(self) }

    /// One stored scale as F32.
    package func float(in bytes: UnsafeRawBufferPointer, at index: Int) -> Float {
        switch self {
        case .f32: bytes.scalars(Float.self)[index]
        case .f16: Binary16(bits: bytes.scalars(UInt16.self)[index]).value
        case .f8E8M0: Float8E8M0(bits: bytes.scalars(UInt8.self)[index]).value
        case .f8E4M3: Float8E4M3(bits: bytes.scalars(UInt8.self)[index]).value
        default: BFloat16(bits: bytes.scalars(UInt16.self)[index]).value
        }
    }

    package func store(_ value: Float, in bytes: UnsafeMutableRawBufferPointer, at index: Int) {
        switch self {
        case .f32: bytes.scalars(Float.self)[index] = value
        case .f16: bytes.scalars(UInt16.self)[index] = Binary16(rounding: value).bits
        case .f8E8M0: bytes.scalars(UInt8.self)[index] = Float8E8M0(rounding: value).bits
        default: bytes.scalars(UInt16.self)[index] = BFloat16(rounding: value).bits
        }
    }

    /// Every scale in `bytes` as F32.
    package func scales(in bytes: UnsafeRawBufferPointer) -> [Float] { (0..<bytes.count * 8 / bitWidth).map { float(in: bytes, at: $0) } }

    /// The largest magnitude of the scales in `bytes`: NaN if any is NaN, nil if there are none.
    package func largestMagnitude(in bytes: UnsafeRawBufferPointer) -> Float? {
        // Without their sign bits patterns are in the order of what they stand for, NaN above all.
        func largest<Bits: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(_ mask: Bits) -> Float? {
            let patterns = UnsafeBufferPointer(rebasing: bytes.scalars(Bits.self)[..<(bytes.count * 8 / bitWidth)])
            guard !patterns.isEmpty else { return nil }
            var top: Bits = 0
            for pattern in patterns { top = max(top, pattern & mask) }
            return withUnsafeBytes(of: top) { float(in: $0, at: 0) }
        }
        switch self {
        case .f32: return largest(0x7FFF_FFFF as UInt32)
        case .bf16, .f16: return largest(0x7FFF as UInt16)
        case .f8E4M3: return largest(0x7F as UInt8)
        case .f8E8M0: return largest(0xFF as UInt8)
        default: break
        }
        var found: Float?
        for index in 0..<bytes.count * 8 / bitWidth {
            let magnitude = float(in: bytes, at: index).magnitude
            if magnitude.isNaN { return .nan }
            if magnitude > found ?? -1 { found = magnitude }
        }
        return found
    }
}
