import CKernels
import Tensors

/// OCP MXFP8: E4M3 codes with a power of two for every 32 columns, stored as its exponent with a bias of 127.
///
/// Reference: vllm-project/compressed-tensors:quantization/utils/mxfp_utils.py (`generate_mx_scales`) and compressors/mxfp8: amax is rounded to a power
/// of two as for MXFP4, the exponent is that power's less 8, E4M3's largest; code = E4M3(clamp(w / scale, -448, 448)). Decoding is code * scale.
package struct MXFP8Layout: FloatCodedLayout, Equatable {
    /// `weight_scale`, or `weight_scale_inv` as MiniMax-M3 has it.
    package var scaleLeaf: String

    package init(scaleLeaf: String = "weight_scale") { self.scaleLeaf = scaleLeaf }

    package var name: String { "mxfp8" }
    package var holdsFP8: Bool { true }
    package func groupColumns(of columns: Int) -> Int { 32 }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        [WeightPart("weight", .f8E4M3, [shape.rows, shape.columns]), WeightPart(scaleLeaf, .u8, [shape.rows, shape.columns / 32])]
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.columns % 32 != 0 ? "\(shape.columns) columns are not a multiple of the group size 32" : nil
    }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let target = values.baseAddress else { return }
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS)) { table in
            // BF16 holds every code exactly; the scale then moves exponents.
            var one: Float = 1
            ck_e4m3_decode(
                KernelLevel.active.rawValue, codes, target, rows.count, shape.columns, max(1, shape.columns), &one, table.baseAddress)
        }
        for group in 0..<rows.count * shape.columns / 32 { Self.scale(target + group * 32, by: parts[1][group]) }
    }

    /// Multiplies 32 values that are codes of E4M3 by 2^(exponent - 127).
    private static func scale(_ values: UnsafeMutablePointer<UInt16>, by exponent: UInt8) {
        guard exponent != 127 else { return }
        // The exponents of E4M3's numbers in BF16 are 118 to 135: within these bounds every product is a normal number.
        guard (10...246).contains(exponent) else {
            let factor = Float8E8M0(bits: exponent).value
            for index in 0..<32 { values[index] = BFloat16(rounding: BFloat16(bits: values[index]).value * factor).bits }
            return
        }
        let step = UInt16(truncatingIfNeeded: (Int(exponent) - 127) << 7)
        for index in 0..<32 {
            let magnitude = values[index] & 0x7FFF
            values[index] = magnitude == 0 || magnitude >= 0x7F80 ? values[index] : values[index] &+ step
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, search: BlockScaleSearch?,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress, let codes = parts[0].scalars(UInt8.self).baseAddress else { return }
        let level = KernelLevel.active.rawValue
        let groups = shape.columns / 32
        var largest = [UInt16](repeating: 0, count: groups)
        var factors = [Float](repeating: 0, count: groups)
        for row in 0..<rows.count {
            let values = source + row * shape.columns, codes = codes + row * shape.columns
            ck_bf16_group_amax(level, values, groups, 32, &largest)
            for group in 0..<groups {
                let amax = largest[group]
                guard amax < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
                var exponent = Self.exponent(amax)
                if let search {
                    let block = BlockScaleSearch.Block(values: values + group * 32, stride: 32, width: 32, firstColumn: group * 32)
                    exponent = better(exponent, block, codes + group * 32, search)
                }
                parts[1][row * groups + group] = exponent
                factors[group] = PowerOfTwoScale.reciprocal(exponent)
            }
            ck_e4m3_encode_groups(level, values, groups, factors, codes)
            for group in 0..<groups { Self.limit(codes + group * 32, parts[1][row * groups + group]) }
        }
    }

    /// 256 times 2^120 is more than BF16 holds: 240 is the nearest that is not.
    private static func limit(_ codes: UnsafeMutablePointer<UInt8>, _ exponent: UInt8) {
        guard exponent >= 247 else { return }
        for index in 0..<32 where codes[index] & 0x7F >= 0x78 { codes[index] = codes[index] & 0x80 | 0x77 }
    }

    private func better(
        _ standard: UInt8, _ block: BlockScaleSearch.Block, _ codes: UnsafeMutablePointer<UInt8>, _ search: BlockScaleSearch
    ) -> UInt8 {
        let candidates = [0, 1, -1].lazy.map { Int(standard) + $0 }.filter { 0...254 ~= $0 }.map { UInt8($0) }
        return withUnsafeTemporaryAllocation(of: UInt16.self, capacity: Int(CK_TABLE_WORDS)) { table in
            search.best(of: candidates, block) { exponent, decoded in
                var factor = PowerOfTwoScale.reciprocal(exponent)
                ck_e4m3_encode_groups(KernelLevel.active.rawValue, block.values, 1, &factor, codes)
                Self.limit(codes, exponent)
                var one: Float = 1
                ck_e4m3_decode(KernelLevel.active.rawValue, codes, decoded, 1, 32, 32, &one, table.baseAddress)
                Self.scale(decoded, by: exponent)
            }
        } ?? standard
    }

    /// amax rounded to a power of two by adding half a step of E2M1 to its bits (the peer has one rule for both widths) and dropping the mantissa; the
    /// exponent is that power's less 8, and no less than 0.
    static func exponent(_ amax: UInt16) -> UInt8 { UInt8(min(max(Int(amax + 32) >> 7 - 8, 0), 254)) }
}
