import CKernels

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// The instruction set that the C kernels run at. Every level gives the same bits.
package enum KernelLevel: Int32, Sendable, CaseIterable, Comparable {
    case plain = 0
    case neon = 1
    case avx2 = 2
    case avx512 = 3

    /// The level in use: the processor's best, or less if the environment variable `RECAST_KERNELS` names one
    /// (`plain`, `neon`, `avx2`, `avx512`). A name above the processor's best is ignored.
    package static let active: KernelLevel = {
        let best = KernelLevel(rawValue: ck_best_level()) ?? .plain
        guard let wish = getenv("RECAST_KERNELS").map({ String(cString: $0) }) else { return best }
        return available.first { "\($0)" == wish } ?? best
    }()

    /// What this processor can run, slowest first.
    package static let available: [KernelLevel] = {
        let best = KernelLevel(rawValue: ck_best_level()) ?? .plain
        return best == .avx512 ? [.plain, .avx2, .avx512] : best == .plain ? [.plain] : [.plain, best]
    }()

    package static func < (a: KernelLevel, b: KernelLevel) -> Bool { a.rawValue < b.rawValue }
}
