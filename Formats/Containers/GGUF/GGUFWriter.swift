import Tensors

/// Lays out a GGUF file: the head, then every tensor at a multiple of the alignment, in the order given.
enum GGUFWriter {
    /// - Returns: nil if a size leaves Int, or a tensor has no type here.
    static func arrange(_ tensors: [TensorDeclaration], _ entries: [GGUFEntry]) -> FileArrangement? {
        var head = GGUF.magic
        head.append(word: 3)
        head.append(long: UInt64(tensors.count))
        head.append(long: UInt64(entries.count))
        for entry in entries { append(entry, to: &head) }
        var places: [Int] = []
        var end = 0
        for tensor in tensors {
            guard let code = GGUFType.code(of: tensor.type), let byteCount = Shape.byteCount(tensor.shape, tensor.type) else { return nil }
            append(tensor.name, to: &head)
            // As ggml counts them: no trailing ones, and at least one.
            var shape = tensor.shape[...]
            while shape.count > 1, shape.first == 1 { shape.removeFirst() }
            if shape.isEmpty { shape = [1] }
            head.append(word: UInt32(shape.count))
            for size in shape.reversed() { head.append(long: UInt64(size)) }
            head.append(word: code)
            head.append(long: UInt64(end))
            places.append(end)
            guard let next = end.adding(byteCount, alignedTo: GGUF.defaultAlignment) else { return nil }
            end = next
        }
        let start = ceilingDivide(head.count, GGUF.defaultAlignment) * GGUF.defaultAlignment
        head += [UInt8](repeating: 0, count: start - head.count)
        let (size, over) = start.addingReportingOverflow(end)
        guard !over else { return nil }
        return FileArrangement(pieces: [.init(offset: 0, bytes: head)], offsets: places.map { $0 + start }, size: size)
    }

    private static func append(_ text: String, to head: inout [UInt8]) {
        head.append(long: UInt64(text.utf8.count))
        head += text.utf8
    }

    private static func append(_ entry: GGUFEntry, to head: inout [UInt8]) {
        append(entry.key, to: &head)
        head.append(word: entry.value.code)
        switch entry.value {
        case .u8(let value): head.append(value)
        case .i8(let value): head.append(UInt8(bitPattern: value))
        case .u16(let value): head.append(half: Int(value))
        case .i16(let value): head.append(half: Int(value))
        case .u32(let value): head.append(word: value)
        case .i32(let value): head.append(word: UInt32(bitPattern: value))
        case .u64(let value): head.append(long: value)
        case .i64(let value): head.append(long: UInt64(bitPattern: value))
        case .f32(let value): head.append(word: value.bitPattern)
        case .f64(let value): head.append(long: value.bitPattern)
        case .bool(let value): head.append(value ? 1 : 0)
        case .string(let text): append(text, to: &head)
        case .array(.strings(let texts)):
            head.append(word: 8)
            head.append(long: UInt64(texts.count))
            for text in texts { append(text, to: &head) }
        case .array(.numbers(let code, let bytes)):
            head.append(word: code)
            head.append(long: UInt64(bytes.count / (GGUFArray.width(code) ?? 1)))
            head += bytes
        }
    }
}

extension Int {
    /// The sum, rounded up to a multiple of `alignment`; nil beyond Int.
    fileprivate func adding(_ count: Int, alignedTo alignment: Int) -> Int? {
        let (sum, over) = addingReportingOverflow(count)
        let (padded, overPadded) = sum.addingReportingOverflow(alignment - 1)
        return over || overPadded ? nil : padded / alignment * alignment
    }
}
