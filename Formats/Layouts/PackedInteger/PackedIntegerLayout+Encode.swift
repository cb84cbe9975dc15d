import CKernels
import Tensors

extension PackedIntegerLayout {
    /// Round-to-nearest exactly as compressed-tensors computes it, in BF16 arithmetic.
    ///
    /// Symmetric: scale = max(|min|, |max|) / ((2^bits - 1) / 2). Asymmetric: scale = (max - min) / (2^bits - 1),
    /// zero point = rint(clamp(-2^(bits - 1) - min / scale)). A zero scale becomes 2^-7. Minimum and maximum include 0.
    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard scaleType == .bf16 else { throw .readOnly }
        guard bits == 8 && symmetric || bits == 4 && (groupSize ?? shape.columns) % 2 == 0 else {
            return try encodeAnyWidth(values, rows: rows, shape: shape, into: parts)
        }
        guard let source = values.baseAddress, let packed = parts[0].scalars(UInt8.self).baseAddress else { return }
        let level = KernelLevel.active.rawValue
        let groups = groups(shape)
        let size = groupSize ?? shape.columns
        let rowBytes = wordsPerRow(shape) * 4
        let scales = parts[1].scalars(UInt16.self).baseAddress!
        try chooseScales(values, rows: rows, groups: groups, size: size, into: scales, level: level)
        parts[2].scalars(Int64.self)[0] = Int64(shape.rows)
        parts[2].scalars(Int64.self)[1] = Int64(shape.columns)

        func encodeRows(_ zeroPoints: UnsafePointer<Int8>?) {
            for row in 0..<rows.count {
                let codes = packed + row * rowBytes
                let used = shape.columns * bits / 8
                for pad in used..<rowBytes { codes[pad] = 0 }
                let zeros = zeroPoints.map { $0 + row * groups }
                if bits == 4 {
                    ck_int4_encode(level, source + row * shape.columns, scales + row * groups, zeros, groups, size, codes)
                } else {
                    ck_int8_encode(level, source + row * shape.columns, scales + row * groups, groups, size, codes)
                }
            }
        }
        if symmetric {
            encodeRows(nil)
        } else {
            withUnsafeTemporaryAllocation(of: Int8.self, capacity: rows.count * groups) { zeros in
                for row in 0..<rows.count {
                    chooseZeroPoints(source + row * shape.columns, groups, size, scales + row * groups, zeros.baseAddress! + row * groups)
                }
                pack(zeros, rows: rows.count, groups: groups, into: parts[3].scalars(UInt32.self))
                encodeRows(zeros.baseAddress)
            }
        }
    }

    /// The same arithmetic for widths that have no kernels.
    private func encodeAnyWidth(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let source = values.baseAddress else { return }
        func bf16(_ value: Float) -> Float { BFloat16(rounding: value).value }
        let (count, size) = (groups(shape), groupSize ?? shape.columns)
        let (half, levels) = (Float(1 << (bits - 1)), Float((1 << bits) - 1))
        var codes = [UInt8](repeating: 0, count: rows.count * shape.columns)
        var parameters: [GroupParameters] = []
        for index in 0..<rows.count * count {
            let start = index / count * shape.columns + index % count * size
            let length = min(size, shape.columns - index % count * size)
            var least: UInt16 = 0, greatest: UInt16 = 0
            ck_bf16_ranges(KernelLevel.active.rawValue, source + start, length, 1, 1, length, &least, &greatest)
            guard least & 0x7FFF < 0x7F80, greatest & 0x7FFF < 0x7F80 else { throw .notFinite(row: rows.lowerBound + index / count) }
            let low = min(BFloat16(bits: least).value, 0), high = max(BFloat16(bits: greatest).value, 0)
            var scale = symmetric ? bf16(max(-low, high) / (levels / 2)) : bf16(bf16(high - low) / levels)
            if scale == 0 { scale = 0x1p-7 }
            let zero = symmetric ? 0 : min(max(bf16(-half - bf16(low / scale)), -half), half - 1).rounded(.toNearestOrEven)
            for column in start..<start + length {
                let value = bf16(bf16(BFloat16(bits: source[column]).value / scale) + zero)
                codes[column] = UInt8(min(max(value, -half), half - 1).rounded(.toNearestOrEven) + half)
            }
            parameters.append(GroupParameters(scale: scale, zero: zero + half))
        }
        store(codes: codes, groups: parameters, rows: rows, shape: shape, into: parts)
    }

    private func chooseScales(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, groups: Int, size: Int, into scales: UnsafeMutablePointer<UInt16>,
        level: Int32
    ) throws(EncodingFault) {
        let count = rows.count * groups
        ck_bf16_group_amax(level, values.baseAddress, count, size, scales)
        if let bad = (0..<count).first(where: { scales[$0] >= 0x7F80 }) { throw .notFinite(row: rows.lowerBound + bad / groups) }
        // The asymmetric scales replace these, group by group, with their zero points.
        if symmetric { ck_bf16_symmetric_scales(scales, count, Float((1 << bits) - 1) / 2) }
    }

    private func chooseZeroPoints(
        _ source: UnsafePointer<UInt16>, _ groups: Int, _ size: Int, _ scales: UnsafeMutablePointer<UInt16>, _ zeros: UnsafeMutablePointer<Int8>
    ) {
        withUnsafeTemporaryAllocation(of: UInt16.self, capacity: 2 * groups) { range in
            let least = range.baseAddress!
            ck_bf16_group_range(KernelLevel.active.rawValue, source, groups, size, least, least + groups)
            ck_bf16_asymmetric_parameters(least, least + groups, groups, scales, zeros)
        }
    }

    /// Packs zero points along the rows: [rows, groups] signed to [rows * bits / 32, groups] words.
    private func pack(_ zeros: UnsafeMutableBufferPointer<Int8>, rows: Int, groups: Int, into words: UnsafeMutableBufferPointer<UInt32>) {
        words.update(repeating: 0)
        for group in 0..<groups {
            BitStream.pack(words.baseAddress! + group, bits: bits, stride: groups, count: rows) {
                UInt32(Int(zeros[$0 * groups + group]) + (1 << (bits - 1)))
            }
        }
    }
}
