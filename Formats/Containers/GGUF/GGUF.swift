import Tensors

/// ggml-org/llama.cpp's file: typed metadata, tensors of plain numbers and of ggml's blocks (ggml/src/gguf.cpp).
package enum GGUF: PlacedContainer {
    package static let name = "gguf"
    package static let endings = [".gguf"]
    package static let indexName = "model.gguf.index.json"
    package static let isSingleFile = true
    package static let listsFiles = false

    static let magic = Array("GGUF".utf8)
    static let defaultAlignment = 32
    /// Longer names are cut by its readers.
    static let nameLimit = 63
    static let maximumRank = 4

    package static func recognises(_ start: [UInt8]) -> Bool { start.starts(with: magic) }

    package static func open(_ file: any SourceFile) throws -> TensorFile {
        var reader = try GGUFReader(file)
        return try reader.read()
    }

    package static func fileName(_ place: (number: String, count: String)?) -> String {
        place.map { "model-\($0.number)-of-\($0.count).gguf" } ?? "model.gguf"
    }

    package static func obstacle(to tensors: [TensorDeclaration]) -> String? {
        for tensor in tensors {
            if tensor.name.utf8.count > nameLimit { return "\(tensor.name): GGUF's readers take names of at most \(nameLimit) bytes" }
            if tensor.shape.count > maximumRank { return "\(tensor.name): GGUF's tensors have at most \(maximumRank) dimensions" }
            if GGUFType.code(of: tensor.type) == nil { return "\(tensor.name): GGUF has no type for \(tensor.type.rawValue)" }
        }
        return nil
    }

    package static func arrange(_ tensors: [TensorDeclaration], metadata: FileMetadata) -> FileArrangement? {
        GGUFWriter.arrange(tensors, metadata.entries)
    }
}

/// The numbers of ggml's types in a file.
enum GGUFType {
    private static let codes: [(ScalarType, UInt32)] = [
        (.f32, 0), (.f16, 1), (.q4_0, 2), (.q4_1, 3), (.q5_0, 6), (.q5_1, 7), (.q8_0, 8), (.q2K, 10), (.q3K, 11), (.q4K, 12), (.q5K, 13), (.q6K, 14),
        (.iq2XXS, 16), (.iq2XS, 17), (.iq3XXS, 18), (.iq1S, 19), (.iq4NL, 20), (.iq3S, 21), (.iq2S, 22), (.iq4XS, 23), (.i8, 24), (.i16, 25),
        (.i32, 26), (.i64, 27), (.f64, 28), (.iq1M, 29), (.bf16, 30), (.tq1_0, 34), (.tq2_0, 35), (.mxfp4Block, 39), (.nvfp4Block, 40),
    ]
    private static let typeOfCode = Dictionary(uniqueKeysWithValues: codes.map { ($0.1, $0.0) })
    private static let codeOfType = Dictionary(uniqueKeysWithValues: codes)

    static func type(_ code: UInt32) -> ScalarType? { typeOfCode[code] }
    static func code(of type: ScalarType) -> UInt32? { codeOfType[type] }
}
