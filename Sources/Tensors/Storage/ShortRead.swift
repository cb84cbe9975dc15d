import Runtime

/// A source file that ended before the bytes its header promised.
public struct ShortRead: Failure, Equatable {
    public var path: String
    public var tensor: String
    public var offset: Int

    public init(path: String, tensor: String, offset: Int) {
        self.path = path
        self.tensor = tensor
        self.offset = offset
    }

    public var kind: FailureKind { .badData }
    public var description: String {
        "\(path): the data of tensor \(tensor) end early at byte \(offset); the file was truncated after it was opened, restore it and run again"
    }
}
