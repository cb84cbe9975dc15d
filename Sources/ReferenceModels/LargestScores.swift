/// The places of the largest of some scores, the very ones that PyTorch's `topk` keeps on a processor.
///
/// Where scores are equal the choice is an accident of the algorithm, and equal they are: whatever all heads of an indexer turn away from scores
/// exactly 0. So that the tokens that a query sees are those of the reference all the same, this goes PyTorch's way (aten/src/ATen/native/TopKImpl.h):
/// `std::partial_sort` for few of many, otherwise `std::nth_element`, as GNU's library has them (bits/stl_algo.h, bits/stl_heap.h): a heap, or
/// partitions about the median of three (D. R. Musser, Introspective Sorting and Selection Algorithms, 1997).
package struct LargestScores {
    struct Entry {
        var score: Float
        var place: Int32
    }

    private var entries: [Entry]

    /// - Parameter scores: finite, or the same for all that are not to be kept.
    package init(_ scores: some Collection<Float>) {
        entries = scores.enumerated().map { Entry(score: $1, place: Int32($0)) }
    }

    /// The places of the `count` largest; fewer than there are scores.
    package mutating func places(_ count: Int) -> [Int] {
        entries.withUnsafeMutableBufferPointer { entries in
            let selection = Selection(entries: entries)
            if count * 64 <= entries.count {
                selection.selectByHeap(0, count, entries.count)
            } else {
                selection.partition(around: count - 1)
            }
        }
        return entries.prefix(count).map { Int($0.place) }
    }

    /// Invariant: every index stays inside the entries. Scans run unguarded only between the two other members of a median of three.
    private struct Selection {
        let entries: UnsafeMutableBufferPointer<Entry>

        private func isBefore(_ a: Int, _ b: Int) -> Bool { entries[a].score > entries[b].score }

        /// Puts the largest entries before the place, as `std::nth_element` does.
        func partition(around place: Int) {
            var (first, last) = (0, entries.count)
            var depth = 2 * (Int.bitWidth - 1 - max(1, last).leadingZeroBitCount)
            while last - first > 3 {
                guard depth > 0 else {
                    selectByHeap(first, place + 1, last)
                    return entries.swapAt(first, place)
                }
                depth -= 1
                let cut = partition(first, last)
                if cut <= place { first = cut } else { last = cut }
            }
            sort(first, last)
        }

        private func partition(_ first: Int, _ last: Int) -> Int {
            let (a, b, c) = (first + 1, first + (last - first) / 2, last - 1)
            let median =
                isBefore(a, b)
                ? (isBefore(b, c) ? b : isBefore(a, c) ? c : a)
                : (isBefore(a, c) ? a : isBefore(b, c) ? c : b)
            entries.swapAt(first, median)
            var (low, high) = (first + 1, last)
            while true {
                while isBefore(low, first) { low += 1 }
                high -= 1
                while isBefore(first, high) { high -= 1 }
                if low >= high { return low }
                entries.swapAt(low, high)
                low += 1
            }
        }

        /// By insertion; equal entries keep their order.
        private func sort(_ first: Int, _ last: Int) {
            for index in stride(from: first + 1, to: last, by: 1) {
                var place = index
                while place > first, isBefore(place, place - 1) {
                    entries.swapAt(place, place - 1)
                    place -= 1
                }
            }
        }

        /// Puts the largest of `first..<last` into `first..<middle`, as a heap whose root is the smallest.
        func selectByHeap(_ first: Int, _ middle: Int, _ last: Int) {
            let count = middle - first
            for parent in stride(from: count / 2 - 1, through: 0, by: -1) { sift(entries[first + parent], into: parent, first, count) }
            for index in middle..<last where isBefore(index, first) {
                let entry = entries[index]
                entries[index] = entries[first]
                sift(entry, into: 0, first, count)
            }
        }

        /// Moves the larger children up to a leaf, then the entry up from there.
        private func sift(_ entry: Entry, into top: Int, _ first: Int, _ count: Int) {
            var hole = top
            var child = top
            while child < (count - 1) / 2 {
                child = 2 * (child + 1)
                if isBefore(first + child, first + child - 1) { child -= 1 }
                entries[first + hole] = entries[first + child]
                hole = child
            }
            if count % 2 == 0, child == (count - 2) / 2 {
                child = 2 * (child + 1)
                entries[first + hole] = entries[first + child - 1]
                hole = child - 1
            }
            while hole > top, entries[first + (hole - 1) / 2].score > entry.score {
                entries[first + hole] = entries[first + (hole - 1) / 2]
                hole = (hole - 1) / 2
            }
            entries[first + hole] = entry
        }
    }
}
