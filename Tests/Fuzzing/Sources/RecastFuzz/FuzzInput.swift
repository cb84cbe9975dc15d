import Foundation
import Recast

/// The bytes of one input. Readers of several texts take them apart at the first zero bytes, which no text that is read here may hold.
struct FuzzInput {
    let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// `count` parts, empty where the input has fewer; the last one keeps what is left, zero bytes included.
    func parts(_ count: Int) -> [[UInt8]] {
        let parts = bytes.split(separator: 0, maxSplits: count - 1, omittingEmptySubsequences: false).map(Array.init)
        return parts + Array(repeating: [], count: count - parts.count)
    }

    /// A number below `limit` out of the first byte, and the rest: seeds write it as a digit.
    func choice(below limit: Int) -> (number: Int, rest: [UInt8]) {
        (Int(bytes.first.map { $0 &- UInt8(ascii: "0") } ?? 0) % limit, Array(bytes.dropFirst()))
    }

    /// Some number that is the same for the same input: which of many ways is tried.
    func hash(below limit: Int) -> Int {
        let hash = bytes.reduce(UInt64(0xCBF2_9CE4_8422_2325)) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        return Int((hash >> 32) % UInt64(limit))
    }
}

/// Shows what readers say of an input: whether a seed is read at all.
private let saysRefusals = ProcessInfo.processInfo.environment["RECAST_FUZZ_SAY"] != nil

/// Runs a reader. It may refuse what it is given, in a sentence; everything else is a finding.
func refusable(_ body: () throws -> Void) {
    do {
        try body()
        if saysRefusals { print("accepted") }
    } catch let failure as any Failure {
        if saysRefusals { print("refused: \(failure)") }
        guard !failure.description.isEmpty else { finding("a \(type(of: failure)) without a sentence", "") }
        guard failure.kind != .internalError else { finding("an internal error", "\(failure)") }
    } catch {
        finding("\(type(of: error)) is no Failure", "\(error)")
    }
}

/// Ends the process as a trap does, so that libFuzzer keeps the input. The same `what` is the same finding, whatever the details.
func finding(_ what: String, _ details: String) -> Never { fatalError("FINDING: \(what)\n\(details)") }
