import HeapModule

/// Byte-pair encoding (arXiv 1508.07909) over bytes: pairs are joined in the order of their ranks, the leftmost first.
struct BytePairEncoder: Sendable {
    /// Token of each byte; -1 where the vocabulary has none.
    var byteTokens: [Int32]
    /// Rank and result of joining two tokens.
    var merges: [Pair: (rank: Int32, token: Int32)]
    /// Whole pieces that are tokens, used when merges are to be ignored for them.
    var wholePieces: [[UInt8]: Int32]

    struct Pair: Hashable, Sendable {
        var left: Int32
        var right: Int32
    }

    private struct Candidate: Comparable {
        var rank: Int32
        var place: Int32
        var pair: Pair

        static func < (a: Candidate, b: Candidate) -> Bool { (a.rank, a.place) < (b.rank, b.place) }
        static func == (a: Candidate, b: Candidate) -> Bool { (a.rank, a.place) == (b.rank, b.place) }
    }

    /// The tokens of one piece, appended to `tokens`. Takes O(n log n), so that a hostile text costs no more than a friendly one.
    func encode(_ piece: [UInt8], into tokens: inout [Int]) {
        if let whole = wholePieces[piece] { return tokens.append(Int(whole)) }
        // A linked list over places; a joined place lives on as its left part.
        var symbols = piece.map { byteTokens[Int($0)] }.filter { $0 >= 0 }
        let count = Int32(symbols.count)
        guard count > 0 else { return }
        var next = (0..<count).map { $0 + 1 }
        var previous = (0..<count).map { $0 - 1 }
        var heap = Heap<Candidate>()
        func consider(_ place: Int32) {
            guard place >= 0, next[Int(place)] < count else { return }
            let pair = Pair(left: symbols[Int(place)], right: symbols[Int(next[Int(place)])])
            if let merge = merges[pair] { heap.insert(Candidate(rank: merge.rank, place: place, pair: pair)) }
        }
        for place in 0..<count { consider(place) }
        while let candidate = heap.popMin() {
            let place = Int(candidate.place)
            let right = next[place]
            // Outdated if either side was joined with something else meanwhile.
            guard symbols[place] == candidate.pair.left, right < count, symbols[Int(right)] == candidate.pair.right,
                let merge = merges[candidate.pair]
            else { continue }
            symbols[place] = merge.token
            symbols[Int(right)] = -1
            next[place] = next[Int(right)]
            if next[place] < count { previous[Int(next[place])] = Int32(place) }
            consider(previous[place])
            consider(Int32(place))
        }
        var place: Int32 = 0
        while place < count {
            tokens.append(Int(symbols[Int(place)]))
            place = next[Int(place)]
        }
    }
}
