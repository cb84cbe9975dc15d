/// Memory that the system or the budget refused.
public struct OutOfMemory: Failure, Equatable {
    public var byteCount: Int
    /// The budget that is spent; nil if it was the system that refused.
    public var budget: Int?

    public init(byteCount: Int, budget: Int? = nil) {
        self.byteCount = byteCount
        self.budget = budget
    }

    public var kind: FailureKind { .system }
    public var description: String {
        if let budget {
            return "\(byteCount) bytes more would go beyond --memory (\(budget >> 20) MiB); give more, or fewer tokens at once"
        }
        return "the system refused \(byteCount) bytes of memory; give a smaller --memory, or free some"
    }
}
