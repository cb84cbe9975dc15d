/// Memory that the system or the budget refused.
package struct OutOfMemory: Failure, Equatable {
    package var byteCount: Int
    /// The budget that is spent; nil if it was the system that refused.
    package var budget: Int?

    package init(byteCount: Int, budget: Int? = nil) {
        self.byteCount = byteCount
        self.budget = budget
    }

    package var kind: FailureKind { .system }
    package var description: String {
        if let budget {
            return "\(byteCount) bytes more would go beyond --memory (\(budget >> 20) MiB); give more, or fewer tokens at once"
        }
        return "the system refused \(byteCount) bytes of memory; give a smaller --memory, or free some"
    }
}
