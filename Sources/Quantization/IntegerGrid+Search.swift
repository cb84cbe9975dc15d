import CKernels
import Formats
import Tensors

extension IntegerGrid {
    /// The sums of `ck_grid_sums`, for codes rounded with some parameters.
    private struct Sums {
        /// Eight places, of which six are filled.
        var values = SIMD8<Float>(repeating: 0)
        var error: Float { values[0] }
        var codeWeight: Double { Double(values[1]) }
        var codeSquare: Double { Double(values[2]) }
        var code: Double { Double(values[3]) }
        var weight: Double { Double(values[4]) }
        var total: Double { Double(values[5]) }
    }

    private func sums(_ values: UnsafePointer<Float>, _ importance: UnsafePointer<Float>, _ count: Int, _ scale: Float, _ bias: Float) -> Sums {
        var sums = Sums()
        withUnsafeMutableBytes(of: &sums.values) {
            ck_grid_sums(
                KernelLevel.active.rawValue, values, importance, count, scale, bias, greatest, $0.assumingMemoryBound(to: Float.self).baseAddress)
        }
        return sums
    }

    /// Parameters of least sum of h (w - (scale c + bias))^2 over a group.
    ///
    /// Ranges shrunk step by step are tried, then the best are refined: with the codes fixed, scale and bias have a closed form
    /// (weighted linear regression); with those fixed, codes are rounded anew. What is compared are always stored parameters.
    func search(_ values: UnsafePointer<Float>, importance: UnsafePointer<Float>, count: Int) -> GroupParameters {
        let range = Self.range(values, count)
        guard range.low < 0 || range.high > 0 else { return zeroGroup }
        var best = (error: Float.infinity, group: zeroGroup)
        func consider(_ candidate: GroupParameters) -> Sums {
            let sums = sums(values, importance, count, candidate.scale, bias(candidate))
            if sums.error < best.error { best = (sums.error, candidate) }
            return sums
        }
        // Fewer codes lose more of their range to outliers.
        let smallest: Float = bits <= 2 ? 0.3 : bits == 3 ? 0.45 : 0.6
        let steps = 20
        var starts = Starts()
        withUnsafeTemporaryAllocation(of: GroupParameters.self, capacity: steps + 1) { candidates in
            var tried = 0
            for step in 0...steps {
                let (scale, bias) = spread(range, share: 1.02 - (1.02 - smallest) * Float(step) / Float(steps))
                guard let group = stored(scale: scale, bias: bias) else { continue }
                candidates[tried] = group
                tried += 1
            }
            withErrors(values, importance, count, UnsafeBufferPointer(rebasing: candidates[..<tried])) { errors in
                for index in 0..<tried { starts.add(errors[index], candidates[index]) }
            }
        }
        if let first = starts.first, first.error < best.error { best = first }
        for case let start? in [starts.first?.group, starts.second?.group, starts.third?.group] {
            var (current, error) = (start, Float.infinity)
            var found = sums(values, importance, count, start.scale, bias(start))
            for _ in 0..<6 {
                guard let refined = regression(values, importance, count, current, found) else { break }
                found = consider(refined)
                guard found.error < error else { break }
                (current, error) = (refined, found.error)
            }
        }
        if case .whole(let range) = zeroPoints {
            // The regression's bias was rounded to a zero point; its neighbours may do better.
            let centre = best.group
            for step: Float in [-1, 1] where range.contains(Int(centre.zero + step)) {
                let neighbour = GroupParameters(scale: centre.scale, zero: centre.zero + step)
                if let rescaled = rescaled(neighbour, consider(neighbour)) { _ = consider(rescaled) }
            }
        }
        return best.group
    }

    /// The three tried parameters of least error, of equals the earlier.
    private struct Starts {
        typealias Start = (error: Float, group: GroupParameters)
        var first, second, third: Start?

        mutating func add(_ error: Float, _ group: GroupParameters) {
            func isBetter(than held: Start?) -> Bool { held.map { error < $0.error } ?? true }
            if isBetter(than: first) {
                (first, second, third) = ((error, group), first, second)
            } else if isBetter(than: second) {
                (second, third) = ((error, group), second)
            } else if isBetter(than: third) {
                third = (error, group)
            }
        }
    }

    /// Calls `body` with the error of each of some parameters.
    private func withErrors(
        _ values: UnsafePointer<Float>, _ importance: UnsafePointer<Float>, _ count: Int, _ candidates: UnsafeBufferPointer<GroupParameters>,
        _ body: (UnsafePointer<Float>) -> Void
    ) {
        withUnsafeTemporaryAllocation(of: Float.self, capacity: max(1, 3 * candidates.count)) { room in
            guard let scales = room.baseAddress else { return }
            let biases = scales + candidates.count, errors = biases + candidates.count
            for index in candidates.indices { (scales[index], biases[index]) = (candidates[index].scale, bias(candidates[index])) }
            ck_grid_errors(KernelLevel.active.rawValue, values, importance, count, scales, biases, candidates.count, greatest, errors)
            body(errors)
        }
    }

    /// The best parameters for the codes that `group` gives, whose sums are `s`.
    private func regression(
        _ values: UnsafePointer<Float>, _ importance: UnsafePointer<Float>, _ count: Int, _ group: GroupParameters, _ s: Sums
    ) -> GroupParameters? {
        if case .middle = zeroPoints { return rescaled(group, s) }
        let determinant = s.total * s.codeSquare - s.code * s.code
        guard determinant > 0, s.total > 0 else { return nil }
        let scale = (s.total * s.codeWeight - s.code * s.weight) / determinant
        let bias = (s.weight - scale * s.code) / s.total
        guard let stored = stored(scale: Float(scale), bias: Float(bias)) else { return nil }
        if case .bias = zeroPoints { return stored }
        return rescaled(stored, sums(values, importance, count, stored.scale, self.bias(stored)))
    }

    /// The best scale for the codes and the zero point that `group` gives, whose sums are `s`.
    private func rescaled(_ group: GroupParameters, _ s: Sums) -> GroupParameters? {
        let zero = Double(group.zero)
        let square = s.codeSquare - 2 * zero * s.code + zero * zero * s.total
        guard square > 0 else { return nil }
        let scale = scaleType.rounded(Float((s.codeWeight - zero * s.weight) / square))
        guard scale.isFinite, scale > 0 else { return nil }
        return GroupParameters(scale: scale, zero: group.zero)
    }

    /// Half-quadratic quantization: mobiusml/hqq:hqq/core/optimize.py (`optimize_weights_proximal_legacy`) with its beta 10, kappa 1.01
    /// and 20 iterations. Its p is 0.7; 3/4 has a shrinkage of square roots only, which every machine rounds alike. Where the
    /// zero point is fixed, the scale is what the quadratic step solves for.
    func halfQuadratic(_ values: UnsafePointer<Float>, count: Int) -> GroupParameters {
        let range = Self.range(values, count)
        guard range.low < 0 || range.high > 0 else { return zeroGroup }
        var (scale, bias) = spread(range, share: 1)
        guard var best = stored(scale: scale, bias: bias) else { return zeroGroup }
        var least = Float.infinity
        var beta: Float = 10
        for _ in 0..<20 {
            var error: Float = 0, zeroSum: Float = 0, product: Float = 0, square: Float = 0
            let zero = -bias / scale
            for index in 0..<count {
                let w = values[index]
                let code = min(max((w / scale + zero).rounded(.toNearestOrEven), 0), greatest)
                let difference = w - (code - zero) * scale
                let size = abs(difference)
                error += size
                // prox of |x|^p: sign(x) max(0, |x| - |x|^(p - 1) / beta).
                let shrunk = size > 0 ? max(0, size - 1 / (beta * size.squareRoot().squareRoot())) : 0
                let target = w - (difference < 0 ? -shrunk : shrunk)
                zeroSum += code - target / scale
                product += target * (code - zero)
                square += (code - zero) * (code - zero)
            }
            guard error < least else { break }
            least = error
            guard let group = stored(scale: scale, bias: bias) else { break }
            best = group
            if zeroPoints == .middle {
                guard square > 0, product > 0 else { break }
                scale = product / square
                bias = -middle * scale
            } else {
                bias = -zeroSum / Float(count) * scale
            }
            beta *= 1.01
        }
        return best
    }
}
