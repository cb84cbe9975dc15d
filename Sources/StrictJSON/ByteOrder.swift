#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

extension String {
    /// Whether the text comes before another by the bytes of its UTF-8: the order in which Python sorts texts.
    package func isBefore(_ other: String) -> Bool {
        utf8.withContiguousStorageIfAvailable { a in
            other.utf8.withContiguousStorageIfAvailable { b -> Bool in
                guard let first = a.baseAddress, let second = b.baseAddress else { return a.count < b.count }
                let order = memcmp(first, second, min(a.count, b.count))
                return order != 0 ? order < 0 : a.count < b.count
            }
        }?.flatMap { $0 } ?? utf8.lexicographicallyPrecedes(other.utf8)
    }
}
