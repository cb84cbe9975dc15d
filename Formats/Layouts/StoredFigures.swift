import Architectures
import CKernels
import Tensors

extension ScalarType {
    /// How many of the stored values are NaN or infinite; 0 for types that have neither.
    package func countNotFinite(_ bytes: UnsafeRawBufferPointer) -> Int {
        let count = bytes.count * 8 / bitWidth
        guard count > 0 else { return 0 }
        switch self {
        case .bf16: return ck_count_masked16(bytes.scalars(UInt16.self).baseAddress, count, 0x7F80)
        case .f16: return ck_count_masked16(bytes.scalars(UInt16.self).baseAddress, count, 0x7C00)
        case .f32: return ck_count_masked32(bytes.scalars(UInt32.self).baseAddress, count, 0x7F80_0000)
        case .f64: return ck_count_masked64(bytes.scalars(UInt64.self).baseAddress, count, 0x7FF0_0000_0000_0000)
        case .f8E4M3: return ck_count_masked8(bytes.scalars(UInt8.self).baseAddress, count, 0x7F)
        case .f8E5M2: return ck_count_masked8(bytes.scalars(UInt8.self).baseAddress, count, 0x7C)
        case .f8E8M0: return ck_count_masked8(bytes.scalars(UInt8.self).baseAddress, count, 0xFF)
        default: return 0
        }
    }
}

extension ScalarType {
    private func isZero(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> Bool {
        switch self {
        case .f32: bytes.scalars(UInt32.self)[index] & 0x7FFF_FFFF == 0
        case .bf16, .f16: bytes.scalars(UInt16.self)[index] & 0x7FFF == 0
        case .f8E4M3: bytes.scalars(UInt8.self)[index] & 0x7F == 0
        default: false
        }
    }

    /// Whether any of the stored scales is zero. Exponents have no zero.
    package func hasZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
        let count = bytes.count * 8 / bitWidth
        switch self {
        case .f32: return bytes.scalars(UInt32.self).contains { $0 & 0x7FFF_FFFF == 0 }
        case .bf16, .f16: return bytes.scalars(UInt16.self).contains { $0 & 0x7FFF == 0 }
        case .f8E4M3: return count > 0 && bytes.scalars(UInt8.self).contains { $0 & 0x7F == 0 }
        default: return false
        }
    }

    /// Makes ones of zeros and zeros of all others; whether there was a zero.
    package func invertZeros(_ bytes: UnsafeMutableRawBufferPointer) -> Bool {
        var found = false
        for index in 0..<bytes.count * 8 / bitWidth {
            let isZero = isZero(UnsafeRawBufferPointer(bytes), index)
            found = found || isZero
            put(isZero ? 1 : 0, bytes, index)
        }
        return found
    }

    package func fillOnes(_ bytes: UnsafeMutableRawBufferPointer) {
        for index in 0..<bytes.count * 8 / bitWidth { put(1, bytes, index) }
    }

    private func put(_ value: Float, _ bytes: UnsafeMutableRawBufferPointer, _ index: Int) {
        if self == .f8E4M3 { bytes.scalars(UInt8.self)[index] = value == 0 ? 0 : 0x38 } else { store(value, in: bytes, at: index) }
    }
}

/// A stored scale or zero point that decodes to nothing sensible.
package struct StoredFault: Sendable, Equatable {
    /// Its place among the values of its tensor.
    package var index: Int
    /// What it is, in words: "nan", "the zero point 9".
    package var value: String
    /// Why it cannot be.
    package var reason: String

    package init(index: Int, value: String, reason: String) {
        self.index = index
        self.value = value
        self.reason = reason
    }
}

extension WeightPart {
    /// Whether the part holds scales.
    package var isScale: Bool { leaf.contains("scale") }

    /// Whether the part holds scales, biases or zero points rather than codes.
    package var holdsFigures: Bool {
        // Parts of joined weights have their module's name before their own.
        leaf.contains("scale") || ["biases", "qzeros", "weight_zero_point"].contains(WeightName.leaf(leaf))
    }
}

extension WeightLayout {
    /// The first scale among the stored bytes of a part that no encoder writes: NaN, infinite, an exponent of 255, or negative where scales are
    /// magnitudes. Zero points are the layout's own to judge.
    package func defaultFault(in part: WeightPart, _ bytes: UnsafeRawBufferPointer) -> StoredFault? {
        guard part.holdsFigures else { return nil }
        // OCP's exponents, whether a file calls them so or just bytes.
        let type: ScalarType = part.type == .u8 ? .f8E8M0 : part.type
        let isSigned = hasSignedScales || part.leaf == "biases"
        let count = bytes.count * 8 / type.bitWidth
        let isSuspect =
            switch type {
            case .bf16, .f16:
                type.countNotFinite(bytes) > 0
                    || !isSigned && ck_count_above16(bytes.scalars(UInt16.self).baseAddress, count, 0x8000) > 0
            case .f32:
                type.countNotFinite(bytes) > 0
                    || !isSigned && ck_count_above32(bytes.scalars(UInt32.self).baseAddress, count, 0x8000_0000) > 0
            case .f8E8M0: type.countNotFinite(bytes) > 0
            case .f8E4M3: true
            default: false
            }
        guard isSuspect else { return nil }
        for index in 0..<count {
            let value = type.float(in: bytes, at: index)
            if !value.isFinite { return StoredFault(index: index, value: "\(value)", reason: "scales must be finite") }
            if value < 0, !isSigned { return StoredFault(index: index, value: "\(value)", reason: "scales must not be negative") }
        }
        return nil
    }
}
