import CKernels
import Recast
import TestSupport
import Testing

/// The quantizers' kernels give the same bits at every level.
@Suite struct QuantizerKernelTests {
    @Test(arguments: KernelLevel.available) func levelsAgree(_ level: KernelLevel) {
        var random = SeededGenerator(2)
        let (level, plain) = (level.rawValue, KernelLevel.plain.rawValue)
        for count in [1, 15, 16, 17, 128, 300] {
            let weights = (0..<count).map { _ in random.normal(1) }
            let importance = (0..<count).map { _ in abs(random.normal(1)) }
            for (scale, bias, greatest) in [(Float(0.3), Float(-2.1), Float(15)), (0.7, -1.4, 3), (0.01, -1.28, 255)] {
                var (a, b) = ([Float](repeating: 0, count: 6), [Float](repeating: 0, count: 6))
                ck_grid_sums(level, weights, importance, count, scale, bias, greatest, &a)
                ck_grid_sums(plain, weights, importance, count, scale, bias, greatest, &b)
                #expect(a == b)
                // Many scales at once have the errors that each has alone, to the last bit.
                let scales = (0..<21).map { scale * (0.6 + Float($0) / 40) }, biases = (0..<21).map { bias * (0.6 + Float($0) / 40) }
                var errors = [Float](repeating: .nan, count: 21)
                ck_grid_errors(level, weights, importance, count, scales, biases, 21, greatest, &errors)
                for index in 0..<21 {
                    ck_grid_sums(plain, weights, importance, count, scales[index], biases[index], greatest, &b)
                    #expect(errors[index] == b[0] && b[0].isFinite)
                }
                var (c, d) = ([UInt8](repeating: 0, count: count), [UInt8](repeating: 0, count: count))
                ck_nearest_codes(level, weights, count, scale, bias, greatest, &c)
                ck_nearest_codes(plain, weights, count, scale, bias, greatest, &d)
                #expect(c == d)
                let expected = zip(weights, d).reduce(Float(0)) { $0 + ($1.0 - (scale * Float($1.1) + bias)) * ($1.0 - (scale * Float($1.1) + bias)) }
                var sums = [Float](repeating: 0, count: 6)
                ck_grid_sums(level, weights, [Float](repeating: 1, count: count), count, scale, bias, greatest, &sums)
                #expect(abs(sums[0] - expected) <= 1e-4 * max(1, expected))
            }
            // Three rows of a wider matrix against as many that were decoded.
            let stride = count + 5
            let block = (0..<3 * stride).map { _ in BFloat16(rounding: random.normal(1e-3)).bits }
            let decoded = (0..<3 * count).map { _ in BFloat16(rounding: random.normal(1e-3)).bits }
            for importance in [nil, importance] {
                let error = ck_squared_error(level, block, stride, decoded, 3, count, importance)
                #expect(error == ck_squared_error(plain, block, stride, decoded, 3, count, importance))
                let expected = (0..<3 * count).reduce(0.0) { sum, index in
                    let (row, column) = index.quotientAndRemainder(dividingBy: count)
                    let miss = Double(BFloat16(bits: block[row * stride + column]).value - BFloat16(bits: decoded[index]).value)
                    return sum + miss * miss * Double(importance?[column] ?? 1)
                }
                #expect(abs(error - expected) <= 1e-12 * expected)
            }
        }
        let (width, rows) = (21, Int(CK_PANEL))
        func matrix(_ count: Int) -> [Float] { (0..<count).map { _ in random.normal(1) } }
        let values = matrix(width * rows), weights = matrix(width * rows), feedback = matrix(width * width).map { $0 * 0.1 }
        let scales = matrix(width * rows).map { abs($0) + 0.1 }, biases = matrix(width * rows), importance = matrix(width).map(abs)
        let groups = (0..<UInt32(width)).map { $0 * 5 % UInt32(width) }
        func round(_ level: Int32) -> ([Float], [Float], [Float], [UInt8]) {
            var (targets, errors, losses, codes) = (
                values, [Float](repeating: 0, count: width * rows), [Float](repeating: 0, count: rows), [UInt8](repeating: 0, count: width * rows)
            )
            ck_feedback_round(level, &targets, weights, feedback, width, width, scales, biases, groups, 7, importance, &losses, &errors, &codes)
            return (targets, errors, losses, codes)
        }
        #expect(round(level) == round(plain))
        var factor = matrix(width * width)
        for i in 0..<width { factor[i * width + i] = abs(factor[i * width + i]) + 1 }
        func solve(_ level: Int32) -> [Float] {
            var x = values
            ck_solve_rows(level, &x, factor, width, width)
            return x
        }
        #expect(solve(level) == solve(plain))
        func product(_ level: Int32, rows: Int, columns: Int, depth: Int) -> [Double] {
            let (a, b) = (weights.map(Double.init), values.map(Double.init))
            var c = [Double](repeating: 0.25, count: rows * (columns + 3))
            ck_double_product(level, a, rows + 1, b, columns, &c, columns + 3, depth, rows, columns, -1)
            return c
        }
        for (rows, columns, depth) in [(4, 16, 5), (5, 17, 9), (3, 33, 1), (1, 1, 21), (9, 20, 0)] {
            let found = product(level, rows: rows, columns: columns, depth: depth)
            #expect(found == product(plain, rows: rows, columns: columns, depth: depth))
            for i in 0..<rows {
                for j in 0..<columns + 3 {
                    let sum =
                        j >= columns ? 0 : (0..<depth).reduce(0.0) { $0 + Double(weights[$1 * (rows + 1) + i]) * Double(values[$1 * columns + j]) }
                    #expect(abs(found[i * (columns + 3) + j] - (0.25 - sum)) < 1e-12)
                }
            }
        }
    }
}
