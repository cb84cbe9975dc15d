import StrictJSON

/// A consumer's contract held against a checkpoint.
package struct ConsumerReport: Sendable {
    package struct Check: Sendable {
        /// What must hold.
        package var rule: String
        /// Why it does not, naming the first culprits; nil if it holds.
        package var failure: String?
    }

    package let consumer: Consumer
    package let checks: [Check]

    package var sentence: String {
        let failed = checks.count { $0.failure != nil }
        return failed == 0
            ? "all \(checks.count) checks of \(consumer.name)'s contract hold"
            : "\(failed) of \(checks.count) checks of \(consumer.name)'s contract fail"
    }

    package var lines: [String] { checks.map { "\(consumer.name): \($0.rule): \($0.failure ?? "yes")" } }

    package var json: JSONObject {
        [
            "name": .string(consumer.name),
            "checks": .array(
                checks.map {
                    .object(["rule": .string($0.rule), "holds": .bool($0.failure == nil), "failure": $0.failure.map(JSONValue.string) ?? .null])
                }),
        ]
    }
}
