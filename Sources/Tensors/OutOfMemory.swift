/// The system refused memory.
public struct OutOfMemory: Failure, Equatable {
    public var byteCount: Int

    public init(byteCount: Int) { self.byteCount = byteCount }

    public var kind: FailureKind { .system }
    public var description: String {
        "the system refused \(byteCount) bytes of memory; give a smaller --memory, or free some"
    }
}
