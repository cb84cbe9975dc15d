import Foundation
import Recast
import Testing

/// Files under `Tests/Fixtures`.
package enum Fixtures {
    package static let directory = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Fixtures").path

    package static func path(_ name: String) -> String { directory + "/" + name }

    package static func bytes(_ name: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(fileURLWithPath: path(name)))) }

    /// The small trained model as published: FP8 128x128.
    package static var fp8Model: String { path("tiny-deepseek-v3-fp8") }

    /// The small trained model in BF16; its shards are stored compressed and unpacked once for all tests.
    package static let bf16Model: String = {
        let target = NSTemporaryDirectory() + "recast-fixture-bf16-\(ProcessInfo.processInfo.processIdentifier)"
        do {
            try? FileManager.default.removeItem(atPath: target)
            try FileManager.default.copyItem(atPath: path("tiny-deepseek-v3-bf16"), toPath: target)
            for name in try FileManager.default.contentsOfDirectory(atPath: target) where name.hasSuffix(".gz") {
                let gzip = try Subprocess("/usr/bin/env", ["gzip", "-d", target + "/" + name])
                try #require(gzip.status == 0, "\(gzip.errors)")
            }
        } catch {
            Issue.record("cannot unpack the BF16 model: \(error)")
        }
        atexit {
            try? FileManager.default.removeItem(atPath: NSTemporaryDirectory() + "recast-fixture-bf16-\(ProcessInfo.processInfo.processIdentifier)")
        }
        return target
    }()

    /// Golden digests by tensor: SHA-256 and, where the peer recorded them, dtype and shape.
    package static func digests(_ name: String) throws -> [String: GoldenTensor] {
        let json = try JSONValue(parsing: bytes("golden/" + name))
        let tensors = json["tensors"]?.object ?? json.object ?? [:]
        return Dictionary(
            uniqueKeysWithValues: tensors.members.map { name, value in
                (
                    name,
                    GoldenTensor(
                        digest: value.string ?? value.array?[0].string ?? "", type: value.array?[1].string,
                        shape: value.array?[2].array?.compactMap(\.int))
                )
            })
    }
}

package struct GoldenTensor: Equatable {
    package var digest: String
    package var type: String?
    package var shape: [Int]?
}

/// A finished child process.
package struct Subprocess {
    package var status: Int32
    package var output: String
    package var errors: String

    package init(_ path: String, _ arguments: [String], environment: [String: String] = [:]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let folder = try TemporaryDirectory()
        let files = ["out", "err"].map { folder.path + "/" + $0 }
        for file in files { _ = FileManager.default.createFile(atPath: file, contents: nil) }
        process.standardOutput = FileHandle(forWritingAtPath: files[0])
        process.standardError = FileHandle(forWritingAtPath: files[1])
        process.standardInput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        status = process.terminationStatus
        output = try String(contentsOfFile: files[0], encoding: .utf8)
        errors = try String(contentsOfFile: files[1], encoding: .utf8)
    }
}

/// A directory that is removed with the last reference to it.
package final class TemporaryDirectory: Sendable {
    package let path: String

    package init() throws {
        path = NSTemporaryDirectory() + "recast-test-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    package func file(_ name: String) -> String { path + "/" + name }
}

/// SplitMix64: the same numbers on every machine.
package struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    package init(_ seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Roughly normal, standard deviation `scale`.
    package mutating func normal(_ scale: Float) -> Float {
        var sum: Float = 0
        for _ in 0..<12 { sum += Float(next() >> 40) / Float(1 << 24) }
        return (sum - 6) * scale
    }
}
