import Tensors

/// NVFP4 whose tensor scale is the reciprocal of the other's: compressed-tensors divides by it, ModelOpt multiplies.
struct NVFP4Repacking: Repacking {
    let from: NVFP4Layout
    let to: NVFP4Layout

    var source: any WeightLayout { from }
    var target: any WeightLayout { to }

    static func offer(from: NVFP4Layout, to: NVFP4Layout) -> RepackingOffer {
        .possible([from.isModelOpt == to.isModelOpt ? Renaming(source: from, target: from) : NVFP4Repacking(from: from, to: to)])
    }

    func obstacle(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape) -> String? {
        reciprocal(of: parts[2].scalars(Float.self)[0]) == nil ? "no F32 is close enough to the reciprocal of the tensor's scale" : nil
    }

    func repack(_ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into targets: [UnsafeMutableRawBufferPointer]) {
        for index in 0..<2 { targets[index].copyMemory(from: parts[index]) }
        targets[2].scalars(Float.self)[0] = reciprocal(of: parts[2].scalars(Float.self)[0]) ?? .nan
    }

    /// A tensor scale with which every code and every scale give the same BF16 value as with the reciprocal scale `global`.
    func reciprocal(of global: Float) -> Float? {
        guard global > 0, global.isFinite else { return nil }
        let inverse = 1 / global
        guard inverse > 0, inverse.isFinite else { return nil }
        // First the number that the target's own encoder stores, if this is it but for rounding, so that there and back gives the
        // same bytes: a BF16, or a BF16 divided by 448 * 6.
        let native = to.isModelOpt ? BFloat16(rounding: inverse * 2688).value / 2688 : BFloat16(rounding: inverse).value
        let candidates =
            ((native - inverse).magnitude <= 4 * inverse.ulp ? [native] : [])
            + [inverse, inverse.nextUp, inverse.nextDown, inverse.nextUp.nextUp, inverse.nextDown.nextDown]
        return candidates.first { candidate in
            (0..<0x7F).allSatisfy { bits in
                let scale = Float8E4M3(bits: UInt8(bits)).value
                let (mine, other) = (from.joined(scale, global), to.joined(scale, candidate))
                return mine == other
                    || (1..<8).allSatisfy { code in
                        let value = Float4E2M1(bits: UInt8(code)).value
                        return BFloat16(rounding: value * mine).bits == BFloat16(rounding: value * other).bits
                    }
            }
        }
    }
}
