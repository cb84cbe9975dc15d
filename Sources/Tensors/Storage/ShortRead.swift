import Runtime

/// A source file that ended before the bytes its header promised.
package struct ShortRead: Failure, Equatable {
    package var path: String
    package var tensor: String
    package var offset: Int

    package init(path: String, tensor: String, offset: Int) {
        self.path = path
        self.tensor = tensor
        self.offset = offset
    }

    package var kind: FailureKind { .badData }
    package var description: String {
        "\(path): the data of tensor \(tensor) end early at byte \(offset); the file was truncated after it was opened, restore it and run again"
    }
}
