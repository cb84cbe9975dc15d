/// Little-endian numbers in the headers of containers. A place that is read must lie inside.
extension [UInt8] {
    package func half(at place: Int) -> Int { Int(self[place]) | Int(self[place + 1]) << 8 }

    package func word(at place: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(self[place + $1]) << UInt32(8 * $1) } }

    func long(at place: Int) -> UInt64 { UInt64(word(at: place)) | UInt64(word(at: place + 4)) << 32 }

    mutating func append(half: Int) {
        append(UInt8(truncatingIfNeeded: half))
        append(UInt8(truncatingIfNeeded: half >> 8))
    }

    mutating func append(word: UInt32) { for shift in 0..<4 { append(UInt8(truncatingIfNeeded: word >> UInt32(8 * shift))) } }

    mutating func append(long: UInt64) {
        append(word: UInt32(truncatingIfNeeded: long))
        append(word: UInt32(truncatingIfNeeded: long >> 32))
    }
}
