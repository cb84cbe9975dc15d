import Consumers

extension ConsumerReport {
    var gates: [ParityGate] {
        checks.map { check in
            ParityGate(
                subject: .consumer, requirement: "\(consumer.name): \(check.rule)", found: check.failure ?? "yes",
                failure: check.failure.map { "for \(consumer.name): \($0)" })
        }
    }
}
