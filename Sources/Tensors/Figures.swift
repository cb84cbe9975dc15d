/// Comparisons of measured figures that know NaN.
///
/// Swift's `max(0, .nan)` is 0, `.nan` is equal to nothing, and a sort by `<` has no order with it: a figure that could not be
/// computed then looks like the best one. Whoever compares, sorts or bounds floating figures does it here, where NaN is the
/// worst there is.
package enum Figures {
    /// The larger of two figures; NaN if either is.
    @inlinable
    package static func larger<Value: BinaryFloatingPoint>(_ a: Value, _ b: Value) -> Value {
        a.isNaN || b.isNaN ? .nan : a > b ? a : b
    }

    /// The smaller of two figures; NaN if either is.
    @inlinable
    package static func smaller<Value: BinaryFloatingPoint>(_ a: Value, _ b: Value) -> Value {
        a.isNaN || b.isNaN ? .nan : a < b ? a : b
    }

    /// The largest of some figures: NaN if any is, nil if there are none.
    @inlinable
    package static func largest<Value: BinaryFloatingPoint>(_ values: some Sequence<Value>) -> Value? {
        var iterator = values.makeIterator()
        guard var found = iterator.next() else { return nil }
        while let value = iterator.next() { found = larger(found, value) }
        return found
    }

    /// The smallest of some figures: NaN if any is, nil if there are none.
    @inlinable
    package static func smallest<Value: BinaryFloatingPoint>(_ values: some Sequence<Value>) -> Value? {
        var iterator = values.makeIterator()
        guard var found = iterator.next() else { return nil }
        while let value = iterator.next() { found = smaller(found, value) }
        return found
    }

    /// A strict order in which NaN comes before every number: for figures of which a low one is bad, as signal-to-noise ratios.
    @inlinable
    package static func isLower<Value: BinaryFloatingPoint>(_ a: Value, than b: Value) -> Bool {
        a.isNaN ? !b.isNaN : !b.isNaN && a < b
    }

    /// A strict order in which NaN comes after every number: for figures of which a high one is bad, as divergences.
    @inlinable
    package static func isBelow<Value: BinaryFloatingPoint>(_ a: Value, _ b: Value) -> Bool {
        b.isNaN ? !a.isNaN : !a.isNaN && a < b
    }

    /// Figures from the smallest to the largest, NaN last.
    package static func ascending<Value: BinaryFloatingPoint & SendableMetatype>(_ values: some Sequence<Value>) -> [Value] {
        values.sorted(by: isBelow)
    }

    /// Whether a figure is a number and not above its bound. What is infinite or NaN keeps no bound.
    @inlinable
    package static func isAtMost(_ value: Double, _ bound: Double) -> Bool { value.isFinite && value <= bound }

    /// Whether a figure is a number and not below its bound. What is infinite or NaN keeps no bound.
    @inlinable
    package static func isAtLeast(_ value: Double, _ bound: Double) -> Bool { value.isFinite && value >= bound }

    /// The nearest whole number, or the end of the range for what lies beyond it; NaN becomes `range.lowerBound`. A conversion by
    /// `Int(_:)` traps on both.
    package static func whole(_ value: Double, in range: ClosedRange<Int>) -> Int {
        if value.isNaN || value <= Double(range.lowerBound) { return range.lowerBound }
        return value >= Double(range.upperBound) ? range.upperBound : Int(value.rounded())
    }
}
