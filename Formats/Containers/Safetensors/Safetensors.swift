import Tensors

/// huggingface/safetensors: a JSON header and the bytes of the tensors. What every other container is made from.
public enum Safetensors: Container {
    public static let name = "safetensors"
    public static let endings = [".safetensors"]
    public static let indexName = SafetensorsIndex.fileName
    public static let wrapsSafetensors = true

    public static func recognises(_ start: [UInt8]) -> Bool {
        // The length of a header is below 2^27, so that the first bytes of other containers are none.
        start.count >= 9 && start[8] == UInt8(ascii: "{") && start[4..<8].allSatisfy { $0 == 0 }
    }

    public static func open(_ file: PositionedFile) throws -> TensorFile { try open(bytes: file) }

    /// Opens a safetensors file that lies in any source of bytes.
    public static func open(bytes: any ByteSource) throws -> TensorFile {
        let header = try SafetensorsHeader(reading: bytes)
        return TensorFile(tensors: header.tensors, metadata: header.metadata, bytes: bytes, safetensorsDataOffset: header.dataOffset)
    }

    public static func fileName(_ place: (number: String, count: String)?) -> String {
        place.map { "model-\($0.number)-of-\($0.count).safetensors" } ?? "model.safetensors"
    }

    public static let pack: (@Sendable (TensorFile, String, PackingOptions) throws -> Void)? = nil
}
