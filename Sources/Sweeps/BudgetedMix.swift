import Conversion
import Foundation

/// A layout for every unit: the least sum of divergences within a number of bytes.
///
/// Divergences of single units add up well while they are small: each is a quadratic form in the unit's error, and errors of different
/// units are nearly uncorrelated. So the choice is a multiple-choice knapsack; it is solved exactly over bytes counted in steps of a
/// 1/16384 of the budget, rounded up, so that the budget is never exceeded.
package enum BudgetedMix {
    static let steps = 16384

    /// The index of the chosen cost of each unit; nil if even the smallest do not fit.
    package static func choose(_ units: [[UnitCost]], budget: Int) -> [Int]? {
        guard budget > 0, units.allSatisfy({ !$0.isEmpty }) else { return units.isEmpty ? [] : nil }
        // What every unit takes at least is taken off first: the steps are then steps of what is left to decide.
        let least = units.map { $0.map(\.bytes).min() ?? 0 }
        let room = budget - least.reduce(0, +)
        guard room >= 0 else { return nil }
        let step = max(1, room / steps)
        let capacity = room / step
        var best = [Double](repeating: 0, count: capacity + 1)
        var choices: [[UInt8]] = []
        for (unit, costs) in units.enumerated() {
            var next = [Double](repeating: .infinity, count: capacity + 1)
            var choice = [UInt8](repeating: 0, count: capacity + 1)
            for (index, cost) in costs.enumerated() {
                let size = (cost.bytes - least[unit] + step - 1) / step
                guard size <= capacity else { continue }
                // What could not be measured is never chosen: no comparison holds for NaN.
                for total in size...capacity where cost.kld.isFinite && best[total - size] + cost.kld < next[total] {
                    next[total] = best[total - size] + cost.kld
                    choice[total] = UInt8(index)
                }
            }
            best = next
            choices.append(choice)
        }
        guard best[capacity].isFinite else { return nil }
        var left = capacity
        var chosen = [Int](repeating: 0, count: units.count)
        for unit in units.indices.reversed() {
            chosen[unit] = Int(choices[unit][left])
            left -= (units[unit][chosen[unit]].bytes - least[unit] + step - 1) / step
        }
        return chosen
    }

    /// The fewest bytes with which the divergences add up to no more than `limit`, found by halving.
    package static func smallest(_ units: [[UnitCost]], kld limit: Double) -> [Int]? {
        var low = units.reduce(0) { $0 + ($1.map(\.bytes).min() ?? 0) }
        var high = units.reduce(0) { $0 + ($1.map(\.bytes).max() ?? 0) }
        func sum(_ chosen: [Int]) -> Double { zip(units, chosen).reduce(0) { $0 + $1.0[$1.1].kld } }
        guard var found = choose(units, budget: high), sum(found) <= limit else { return nil }
        if let least = choose(units, budget: low), sum(least) <= limit { return least }
        while high - low > max(1, high / 4096) {
            let middle = (low + high) / 2
            if let chosen = choose(units, budget: middle), sum(chosen) <= limit { (found, high) = (chosen, middle) } else { low = middle }
        }
        return found
    }
}
