import Runtime

/// The largest magnitudes of weights that share a range with others: each is looked for once and forgotten once all of them have it.
///
/// Those that are written and those that audit have one each, so that an audit derives anew what it compares.
final class SharedRanges: Sendable {
    private let known = Lock<[Int: (amax: UInt16, uses: Int)]>([:])

    /// - Parameters:
    ///   - index: of the source's weight.
    ///   - uses: how many weights will ask.
    ///   - look: finds it; two that ask at the same time may both look.
    func amax(of index: Int, uses: Int, _ look: () throws -> UInt16) rethrows -> UInt16 {
        let found = known.withLock { known -> UInt16? in
            guard let entry = known[index] else { return nil }
            known[index] = entry.uses > 1 ? (entry.amax, entry.uses - 1) : nil
            return entry.amax
        }
        if let found { return found }
        let amax = try look()
        if uses > 1 { known.withLock { $0[index] = (amax, uses - 1) } }
        return amax
    }
}
