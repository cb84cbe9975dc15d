import Tensors

/// huggingface/safetensors: a JSON header and the bytes of the tensors. What every other container is made from.
package enum Safetensors: PlacedContainer {
    package static let name = "safetensors"
    package static let endings = [".safetensors"]
    package static let indexName = SafetensorsIndex.fileName
    package static let wrapsSafetensors = true

    package static func recognises(_ start: [UInt8]) -> Bool {
        // The length of a header is below 2^27, so that the first bytes of other containers are none.
        start.count >= 9 && start[8] == UInt8(ascii: "{") && start[4..<8].allSatisfy { $0 == 0 }
    }

    package static func open(_ file: any SourceFile) throws -> TensorFile { try open(bytes: file) }

    /// Opens a safetensors file that lies in any source of bytes.
    package static func open(bytes: any ByteSource) throws -> TensorFile {
        let header = try SafetensorsHeader(reading: bytes)
        return TensorFile(tensors: header.tensors, metadata: header.metadata, bytes: bytes, safetensorsDataOffset: header.dataOffset)
    }

    package static func fileName(_ place: (number: String, count: String)?) -> String {
        place.map { "model-\($0.number)-of-\($0.count).safetensors" } ?? "model.safetensors"
    }

    package static func obstacle(to tensors: [TensorDeclaration]) -> String? {
        tensors.first { $0.type.block != nil }.map { "\($0.name): safetensors files have no type for \($0.type.rawValue); GGUF has" }
    }

    package static func arrange(_ tensors: [TensorDeclaration], metadata: FileMetadata) -> FileArrangement? {
        SafetensorsHeader.layout(tensors, metadata: metadata.texts).map {
            FileArrangement(pieces: [.init(offset: 0, bytes: $0.header)], offsets: $0.offsets, size: $0.size)
        }
    }
}
