import Tensors

/// A named tensor as a container stores it: type, shape and the bytes it occupies in a file.
package struct StoredTensor: Sendable, Equatable {
    package var name: String
    package var type: ScalarType
    package var shape: [Int]
    /// Index of the file among the files of its checkpoint.
    package var file: Int
    /// First byte, counted from the start of the file.
    package var offset: Int
    package var byteCount: Int

    package init(name: String, type: ScalarType, shape: [Int], file: Int = 0, offset: Int, byteCount: Int) {
        self.name = name
        self.type = type
        self.shape = shape
        self.file = file
        self.offset = offset
        self.byteCount = byteCount
    }

    /// "F8_E4M3 [256, 1024]"
    package var summary: String { "\(type.rawValue) \(shape)" }
}

/// A tensor to be stored; its container decides where.
package struct TensorDeclaration: Sendable, Equatable {
    package var name: String
    package var type: ScalarType
    package var shape: [Int]

    package init(name: String, type: ScalarType, shape: [Int]) {
        self.name = name
        self.type = type
        self.shape = shape
    }
}
