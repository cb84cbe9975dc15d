import CKernels
import Tensors

/// Floats taken apart into byte planes, exponents first (see FORMAT.md).
///
/// The eight exponent bits of trained weights carry two to three bits of information, the mantissa and the sign all of theirs; side by
/// side in a byte each hides the other from an entropy coder.
enum BytePlanes {
    /// How many planes pay for numbers of this type; 1 leaves them as they are. Codes of FP8 and packed integers have
    /// nothing to separate: their bytes are coded whole (measured in README.md).
    static func width(of type: ScalarType) -> Int {
        switch type {
        case .bf16, .f16: 2
        case .f32: 4
        default: 1
        }
    }

    /// `source` holds whole numbers; `planes` has as many bytes.
    static func split(_ source: UnsafeRawBufferPointer, into planes: UnsafeMutableRawBufferPointer, width: Int) {
        guard let from = source.baseAddress, let to = planes.baseAddress else { return }
        ck_split_planes(
            KernelLevel.active.rawValue, from.assumingMemoryBound(to: UInt8.self), to.assumingMemoryBound(to: UInt8.self), source.count / width,
            Int32(width))
    }

    static func join(_ planes: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer, width: Int) {
        guard let from = planes.baseAddress, let to = target.baseAddress else { return }
        ck_join_planes(
            KernelLevel.active.rawValue, from.assumingMemoryBound(to: UInt8.self), to.assumingMemoryBound(to: UInt8.self), target.count / width,
            Int32(width))
    }
}
