import Recast

/// Stores the tensors of `source` in a file of another container, in the way in which a conversion does.
package func store(_ source: TensorFile, in container: any Container.Type, _ path: String) throws {
    if let container = container as? any PackedContainer.Type { return try container.pack(source, to: path, PackingOptions()) }
    guard let container = container as? any PlacedContainer.Type,
        let places = container.arrange(
            source.tensors.map { TensorDeclaration(name: $0.name, type: $0.type, shape: $0.shape) }, metadata: FileMetadata())
    else { throw ContainerFailure(path, "the container \(container.name) cannot be written") }
    let file = try PositionedFile.openForWriting(path, truncate: true)
    try file.resize(to: places.size)
    for piece in places.pieces { try file.write(piece.bytes, at: piece.offset) }
    for (tensor, offset) in zip(source.tensors, places.offsets) {
        try file.write(try source.bytes.read(tensor.byteCount, at: tensor.offset), at: offset)
    }
    try container.seal(file) {}
}
