import Recast
import Testing

/// Comparisons that know NaN.
@Suite struct FiguresTests {
    @Test func nanIsTheWorstOfAll() {
        #expect(Figures.larger(0, Double.nan).isNaN && Figures.larger(Double.nan, 0).isNaN && Figures.larger(1.0, 2) == 2)
        #expect(Figures.smaller(0, Double.nan).isNaN && Figures.smaller(Double.nan, 0).isNaN && Figures.smaller(1.0, 2) == 1)
        #expect(Figures.largest([1.0, .nan, 3])?.isNaN == true && Figures.largest([1.0, 3, 2]) == 3 && Figures.largest([Double]()) == nil)
        #expect(Figures.smallest([1.0, .nan, 3])?.isNaN == true && Figures.smallest([3.0, 1, 2]) == 1)
        #expect(!Figures.isAtMost(.nan, 1) && !Figures.isAtMost(-.infinity, 1) && Figures.isAtMost(1, 1) && !Figures.isAtMost(1.5, 1))
        #expect(!Figures.isAtLeast(.nan, 1) && !Figures.isAtLeast(.infinity, 1) && Figures.isAtLeast(1, 1) && !Figures.isAtLeast(0.5, 1))
    }

    @Test func ordersAreStrictWithNaN() {
        let values = [1.0, .nan, -.infinity, 3, .nan, .infinity, 0, -0.0]
        let sorted = Figures.ascending(values)
        #expect(sorted.prefix(6) == [-.infinity, 0, -0.0, 1, 3, .infinity] && sorted.suffix(2).allSatisfy(\.isNaN))
        let low = values.sorted { Figures.isLower($0, than: $1) }
        #expect(low.prefix(2).allSatisfy(\.isNaN) && low.suffix(1) == [.infinity])
        for a in values {
            #expect(!Figures.isLower(a, than: a) && !Figures.isBelow(a, a))
            for b in values { #expect(!(Figures.isLower(a, than: b) && Figures.isLower(b, than: a))) }
        }
    }

    @Test func noFigureTrapsOnItsWayToAWholeNumber() {
        for value in [Double.nan, .infinity, -.infinity, 1e300, -1e300, 0.5, 7.4] {
            #expect((0...100).contains(Figures.whole(value, in: 0...100)))
        }
        #expect(Figures.whole(7.6, in: 0...100) == 8 && Figures.whole(.infinity, in: 0...9) == 9 && Figures.whole(.nan, in: 2...9) == 2)
    }

    @Test func theBudgetCountsAndRefuses() throws {
        let before = MemoryBudget.process.inUse
        do {
            let buffer = try AlignedBuffer(byteCount: 1 << 20)
            #expect(MemoryBudget.process.inUse >= before + buffer.bytes.count)
        }
        // Sizes that no machine has are a thrown error.
        #expect(throws: OutOfMemory.self) { try AlignedBuffer(byteCount: 1 << 60) }
        let budget = MemoryBudget()
        budget.restrict(to: 0)
        try budget.take(MemoryBudget.allowance)
        #expect(throws: OutOfMemory.self) { try budget.take(1) }
        budget.give(MemoryBudget.allowance)
        try budget.take(1)
        #expect(budget.inUse == 1 && budget.peak == MemoryBudget.allowance)
    }
}
