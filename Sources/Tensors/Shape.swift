/// Sizes of untrusted tensors: the one door through which they come in. What has passed it can be multiplied by the small factors of
/// a layout (codes in a word, bytes of a value) without leaving `Int`, so no family checks again.
package enum Shape {
    /// No dimension is larger, not even beside one that is 0.
    package static let largestDimension = 1 << 48
    /// The product of all dimensions but those that are 0 is no larger.
    package static let largestCount = 1 << 55

    /// The number of elements; nil if a dimension is negative or too large, or the product is. A scalar (no dimensions) has one.
    package static func count(_ dimensions: [Int]) -> Int? {
        var extent = 1
        var isEmpty = false
        for dimension in dimensions {
            guard dimension >= 0, dimension <= largestDimension else { return nil }
            if dimension == 0 {
                isEmpty = true
                continue
            }
            let (product, over) = extent.multipliedReportingOverflow(by: dimension)
            guard !over, product <= largestCount else { return nil }
            extent = product
        }
        return isEmpty ? 0 : extent
    }

    /// Bytes of a packed tensor; nil on overflow, or if the elements do not fill whole bytes, or the rows no whole blocks.
    package static func byteCount(_ dimensions: [Int], _ type: ScalarType) -> Int? {
        guard let count = count(dimensions) else { return nil }
        if let block = type.block {
            guard (dimensions.last ?? 1) % block.values == 0 else { return nil }
            return count / block.values * block.bytes
        }
        let (bits, over) = count.multipliedReportingOverflow(by: type.bitWidth)
        guard !over, bits % 8 == 0 else { return nil }
        return bits / 8
    }
}

/// A weight seen as `[out, in]`: rows are output channels, groups and blocks run along the columns.
package struct MatrixShape: Sendable, Equatable, Hashable {
    package var rows: Int
    package var columns: Int

    package init(rows: Int, columns: Int) {
        self.rows = rows
        self.columns = columns
    }

    /// Leading dimensions join into rows. A vector is a column, so that it can be cut anywhere.
    package init(_ dimensions: [Int]) {
        columns = dimensions.count > 1 ? dimensions[dimensions.count - 1] : 1
        rows = dimensions.count > 1 ? dimensions.dropLast().reduce(1, *) : dimensions.first ?? 1
    }

    package var count: Int { rows * columns }
}

/// `a / b` rounded up, for positive `b`, which may come from a file: no sum of the two is formed.
@inlinable
package func ceilingDivide(_ a: Int, _ b: Int) -> Int { a / b + (a % b > 0 ? 1 : 0) }

/// The least common multiple of two positive numbers.
package func leastCommonMultiple(_ a: Int, _ b: Int) -> Int {
    var (x, y) = (a, b)
    while y != 0 { (x, y) = (y, x % y) }
    return a / x * b
}
