import Tensors

/// A named tensor as a container stores it: type, shape and the bytes it occupies in a file.
public struct StoredTensor: Sendable, Equatable {
    public var name: String
    public var type: ScalarType
    public var shape: [Int]
    /// Index of the file among the files of its checkpoint.
    public var file: Int
    /// First byte, counted from the start of the file.
    public var offset: Int
    public var byteCount: Int

    public init(name: String, type: ScalarType, shape: [Int], file: Int = 0, offset: Int, byteCount: Int) {
        self.name = name
        self.type = type
        self.shape = shape
        self.file = file
        self.offset = offset
        self.byteCount = byteCount
    }

    /// "F8_E4M3 [256, 1024]"
    public var summary: String { "\(type.rawValue) \(shape)" }
}
