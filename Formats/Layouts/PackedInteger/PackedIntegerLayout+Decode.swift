import CKernels
import Tensors

extension PackedIntegerLayout {
    /// (code - zero point) * scale, each step rounded to the scale's dtype as the library computes it, then to BF16.
    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let target = values.baseAddress, let packed = parts[0].baseAddress else { return }
        let groups = groups(shape)
        let size = groupSize ?? shape.columns
        let rowBytes = wordsPerRow(shape) * 4
        let level = KernelLevel.active.rawValue
        withZeroPoints(parts, rows: rows, groups: groups) { zeroPoints in
            for row in 0..<rows.count {
                let codes = (packed + row * rowBytes).assumingMemoryBound(to: UInt8.self)
                let zeros = zeroPoints.map { $0 + row * groups }
                let destination = target + row * shape.columns
                if scaleType == .bf16, groups * size == shape.columns, bits == 4 && size % 2 == 0 || bits == 8 && symmetric {
                    let scales = parts[1].scalars(UInt16.self).baseAddress! + row * groups
                    if bits == 4 {
                        ck_int4_decode(level, codes, scales, zeros, groups, size, destination)
                    } else {
                        ck_int8_decode(level, codes, scales, groups, size, destination)
                    }
                } else {
                    decodeRow(codes, parts[1], firstScale: row * groups, zeros, shape, size, destination)
                }
            }
        }
    }

    /// Any width, group and scale type, one code at a time.
    private func decodeRow(
        _ codes: UnsafePointer<UInt8>, _ scales: UnsafeRawBufferPointer, firstScale: Int, _ zeros: UnsafePointer<Int8>?,
        _ shape: MatrixShape, _ size: Int, _ target: UnsafeMutablePointer<UInt16>
    ) {
        let offset = 1 << (bits - 1)
        UnsafeRawPointer(codes).withMemoryRebound(to: UInt32.self, capacity: wordsPerRow(shape)) { words in
            BitStream.unpack(words, bits: bits, count: shape.columns) { index, code in
                let group = index / size
                let scale = scaleType.float(in: scales, at: firstScale + group)
                let difference = rounded(Float(code - offset) - Float(zeros?[group] ?? 0))
                target[index] = BFloat16(rounding: rounded(difference * scale)).bits
            }
        }
    }

    /// The zero points of a tile as signed bytes, [rows, groups]; nil when symmetric.
    private func withZeroPoints(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, groups: Int, _ body: (UnsafePointer<Int8>?) -> Void
    ) {
        guard !symmetric, let words = parts[3].scalars(UInt32.self).baseAddress else { return body(nil) }
        withUnsafeTemporaryAllocation(of: Int8.self, capacity: rows.count * groups) { zeros in
            for group in 0..<groups {
                BitStream.unpack(words + group, bits: bits, stride: groups, count: rows.count) { row, code in
                    zeros[row * groups + group] = Int8(code - (1 << (bits - 1)))
                }
            }
            body(UnsafePointer(zeros.baseAddress!))
        }
    }
}
