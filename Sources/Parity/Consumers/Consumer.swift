import StrictJSON

/// A program that loads checkpoints and expects things of them that no number shows.
public enum Consumer: String, Sendable, CaseIterable {
    case vllm, sglang, transformers
    case llamaCpp = "llama.cpp"
    case mlx
}

/// A consumer's contract held against a checkpoint.
public struct ConsumerReport: Sendable {
    public struct Check: Sendable {
        /// What must hold.
        public var rule: String
        /// Why it does not, naming the first culprits; nil if it holds.
        public var failure: String?
    }

    public let consumer: Consumer
    public let checks: [Check]

    var gates: [ParityGate] {
        checks.map { check in
            ParityGate(
                subject: .consumer, requirement: "\(consumer.rawValue): \(check.rule)", found: check.failure ?? "yes",
                failure: check.failure.map { "for \(consumer.rawValue): \($0)" })
        }
    }

    var sentence: String {
        let failed = checks.count { $0.failure != nil }
        return failed == 0
            ? "all \(checks.count) checks of \(consumer.rawValue)'s contract hold"
            : "\(failed) of \(checks.count) checks of \(consumer.rawValue)'s contract fail"
    }

    var lines: [String] { checks.map { "\(consumer.rawValue): \($0.rule): \($0.failure ?? "yes")" } }

    var json: JSONObject {
        [
            "name": .string(consumer.rawValue),
            "checks": .array(
                checks.map {
                    .object(["rule": .string($0.rule), "holds": .bool($0.failure == nil), "failure": $0.failure.map(JSONValue.string) ?? .null])
                }),
        ]
    }
}
