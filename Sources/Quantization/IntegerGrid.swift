import CKernels
import Formats
import Tensors

/// The numbers that a group of columns can hold in an integer-coded layout: scale * code + bias, codes 0 ... 2^bits - 1, scale and
/// bias as the layout stores them.
package struct IntegerGrid: Sendable, Equatable {
    package let bits: Int
    /// Columns that share parameters; nil for all columns of a row.
    package let groupSize: Int?
    package let zeroPoints: ZeroPoints
    package let scaleType: ScalarType

    package init(bits: Int, groupSize: Int?, zeroPoints: ZeroPoints, scaleType: ScalarType) {
        self.bits = bits
        self.groupSize = groupSize
        self.zeroPoints = zeroPoints
        self.scaleType = scaleType
    }

    package init(_ layout: any IntegerCodedLayout) {
        self.init(bits: layout.bits, groupSize: layout.groupSize, zeroPoints: layout.zeroPoints, scaleType: layout.scaleType)
    }

    /// The greatest code.
    package var greatest: Float { Float((1 << bits) - 1) }
    var middle: Float { Float(1 << (bits - 1)) }

    /// Groups of a row.
    func groupCount(_ columns: Int) -> Int { groupSize.map { ceilingDivide(columns, $0) } ?? 1 }

    /// What is added to scale * code.
    package func bias(_ group: GroupParameters) -> Float {
        if case .bias = zeroPoints { group.bias } else { -group.zero * group.scale }
    }

    /// Calls `choose` for the parameters of every group and rounds the group's weights with them.
    func quantize(
        _ weights: WeightRows, _ choose: (_ values: UnsafePointer<Float>, _ columns: Range<Int>) -> GroupParameters
    ) -> QuantizedRows {
        let size = groupSize ?? max(1, weights.columns)
        let count = ceilingDivide(weights.columns, size)
        let level = KernelLevel.active.rawValue
        var groups: [GroupParameters] = []
        groups.reserveCapacity(weights.rows * count)
        var codes = [UInt8](repeating: 0, count: weights.values.count)
        weights.values.withUnsafeBufferPointer { values in
            codes.withUnsafeMutableBufferPointer { codes in
                guard let values = values.baseAddress, let codes = codes.baseAddress else { return }
                for row in 0..<weights.rows {
                    for group in 0..<count {
                        let columns = group * size..<min((group + 1) * size, weights.columns)
                        let start = row * weights.columns + columns.lowerBound
                        let parameters = choose(values + start, columns)
                        groups.append(parameters)
                        ck_nearest_codes(level, values + start, columns.count, parameters.scale, bias(parameters), greatest, codes + start)
                    }
                }
            }
        }
        return QuantizedRows(codes: codes, groups: groups)
    }

    /// The parameters of every group, its range times `share`.
    package func ranges(_ weights: WeightRows, share: Float) -> [GroupParameters] {
        let size = groupSize ?? max(1, weights.columns)
        return weights.values.withUnsafeBufferPointer { values in
            (0..<weights.rows).flatMap { row in
                stride(from: 0, to: weights.columns, by: size).map { first in
                    let range = Self.range(values.baseAddress! + row * weights.columns + first, min(size, weights.columns - first))
                    guard range.low < 0 || range.high > 0 else { return zeroGroup }
                    let (scale, bias) = spread(range, share: share)
                    return stored(scale: scale, bias: bias) ?? zeroGroup
                }
            }
        }
    }

    /// Parameters that hold zeros, and nothing else.
    var zeroGroup: GroupParameters {
        switch zeroPoints {
        // compressed-tensors' scale for a group of zeros; any would do.
        case .middle: GroupParameters(scale: 0x1p-7, zero: middle)
        case .whole(let range): GroupParameters(scale: 0x1p-7, zero: Float(range.contains(1 << (bits - 1)) ? 1 << (bits - 1) : range.lowerBound))
        case .bias: GroupParameters(scale: 0x1p-7, zero: 0, bias: 0)
        }
    }

    /// Parameters with a scale of any positive size, rounded as the layout stores them; nil if it cannot.
    func stored(scale: Float, bias: Float) -> GroupParameters? {
        let stored = scaleType.rounded(scale)
        guard stored.isFinite, stored > 0 else { return nil }
        switch zeroPoints {
        case .middle: return GroupParameters(scale: stored, zero: middle)
        case .whole(let range):
            let zero = (-bias / scale).rounded(.toNearestOrEven)
            guard !zero.isNaN else { return nil }
            return GroupParameters(scale: stored, zero: min(max(zero, Float(range.lowerBound)), Float(range.upperBound)))
        case .bias:
            let offset = scaleType.rounded(bias)
            guard offset.isFinite else { return nil }
            return GroupParameters(scale: stored, zero: offset == 0 ? 0 : -offset / stored, bias: offset)
        }
    }

    /// The range of a group, extended to include 0.
    static func range(_ values: UnsafePointer<Float>, _ count: Int) -> (low: Float, high: Float) {
        typealias Lanes = SIMD16<Float>
        var lows = Lanes(repeating: 0), highs = lows
        let whole = count / Lanes.scalarCount * Lanes.scalarCount
        for start in stride(from: 0, to: whole, by: Lanes.scalarCount) {
            let lanes = UnsafeRawPointer(values + start).loadUnaligned(as: Lanes.self)
            lows.replace(with: lanes, where: lanes .< lows)
            highs.replace(with: lanes, where: lanes .> highs)
        }
        var low = lows.min(), high = highs.max()
        for index in whole..<count {
            low = min(low, values[index])
            high = max(high, values[index])
        }
        return (low, high)
    }

    /// Scale and bias that spread the codes over [low, high] times `share`.
    func spread(_ range: (low: Float, high: Float), share: Float) -> (scale: Float, bias: Float) {
        if case .middle = zeroPoints {
            let scale = max(range.high / (middle - 1), -range.low / middle) * share
            return (scale, -middle * scale)
        }
        return ((range.high - range.low) / greatest * share, range.low * share)
    }
}
