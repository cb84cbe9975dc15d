import Recast

/// libFuzzer's own mutations.
@_silgen_name("LLVMFuzzerMutate")
private func libFuzzerMutate(_ data: UnsafeMutablePointer<UInt8>, _ size: Int, _ limit: Int) -> Int

@_cdecl("LLVMFuzzerCustomMutator")
public func fuzzerCustomMutator(_ data: UnsafeMutablePointer<UInt8>, _ size: Int, _ limit: Int, _ seed: CUnsignedInt) -> Int {
    let bytes = Array(UnsafeBufferPointer(start: data, count: size))
    var mutation = TextMutation(bytes, seed: UInt64(seed))
    guard let mutated = mutation.mutated(), mutated.count <= limit else { return libFuzzerMutate(data, size, limit) }
    UnsafeMutableRawBufferPointer(start: data, count: limit).copyBytes(from: mutated)
    return mutated.count
}

/// Edits that keep a text's grammar, which flipped bits and moved pieces rarely do: another number, another of the texts that are there, a member
/// of a list twice or not at all.
private struct TextMutation {
    private static let numbers = [
        "0", "1", "2", "3", "4", "8", "15", "16", "31", "32", "64", "127", "128", "255", "256", "1000", "65536", "2147483647", "4294967296",
        "281474976710656", "36028797018963968", "4611686018427387904", "9223372036854775807", "18446744073709551616", "-1", "-9223372036854775808",
        "0.5", "1e300", "1e-300", "null", "\"\"", "[]", "{}", "true",
    ]

    private let bytes: [UInt8]
    private var state: UInt64

    init(_ bytes: [UInt8], seed: UInt64) {
        self.bytes = bytes
        state = seed
    }

    private mutating func random(below limit: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int((state >> 33) % UInt64(max(1, limit)))
    }

    /// Nil where the turn is libFuzzer's, or nothing of the kind is found.
    mutating func mutated() -> [UInt8]? {
        _ = random(below: 1)
        switch random(below: 8) {
        case 0, 1:
            guard let number = pick(runs(of: \.isDigit)) else { return nil }
            return replacing(number, by: Array(Self.numbers[random(below: Self.numbers.count)].utf8))
        case 2:
            let texts = quoted()
            guard let old = pick(texts), let new = pick(texts) else { return nil }
            return replacing(old, by: Array(bytes[new]))
        case 3:
            // From one comma or line to the next.
            let breaks = bytes.indices.filter { bytes[$0] == UInt8(ascii: ",") || bytes[$0] == UInt8(ascii: "\n") }
            guard breaks.count > 1 else { return nil }
            let place = random(below: breaks.count - 1)
            let range = breaks[place]..<breaks[place + 1]
            return random(below: 2) == 0 ? replacing(range, by: []) : replacing(range, by: Array(bytes[range]) + Array(bytes[range]))
        default: return nil
        }
    }

    private mutating func pick(_ ranges: [Range<Int>]) -> Range<Int>? { ranges.isEmpty ? nil : ranges[random(below: ranges.count)] }

    private func replacing(_ range: Range<Int>, by new: [UInt8]) -> [UInt8] { bytes[..<range.lowerBound] + new + bytes[range.upperBound...] }

    private func runs(of matches: (UInt8) -> Bool) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        var start: Int?
        for index in 0...bytes.count {
            if index < bytes.count, matches(bytes[index]) {
                start = start ?? index
            } else if let first = start {
                runs.append(first..<index)
                start = nil
            }
        }
        return runs
    }

    private func quoted() -> [Range<Int>] {
        let quotes = bytes.indices.filter { bytes[$0] == UInt8(ascii: "\"") }
        return stride(from: 0, to: quotes.count - 1, by: 2).map { quotes[$0]..<quotes[$0 + 1] + 1 }
    }
}

extension UInt8 {
    fileprivate var isDigit: Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }
}
