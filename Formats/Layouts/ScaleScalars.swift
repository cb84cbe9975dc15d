import Tensors

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
        var largest: Float?
        for index in 0..<bytes.count * 8 / bitWidth {
            let magnitude = float(in: bytes, at: index).magnitude
            if magnitude.isNaN { return .nan }
            if magnitude > largest ?? -1 { largest = magnitude }
        }
        return largest
    }
}
