import Tensors

/// Elements of a file that lie apart or the wrong way round: a transposed tensor, a slice, another byte order.
///
/// All of them lie inside the file: whoever makes a view has checked it.
struct StridedView: ByteSegment {
    var file: any SourceFile
    /// First byte of the first element.
    var start: Int
    var shape: [Int]
    /// In elements, none negative.
    var strides: [Int]
    /// Bytes of an element.
    var width: Int
    /// Bytes whose order is reversed; 1 for none.
    var swap: Int

    var byteCount: Int { shape.reduce(width, *) }

    /// Cut at elements; odd ends are read as whole elements beside.
    func read(_ range: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        let first = range.lowerBound / width, last = ceilingDivide(range.upperBound, width)
        if first * width != range.lowerBound || last * width != range.upperBound {
            let whole = try AlignedBuffer(byteCount: (last - first) * width)
            defer { withExtendedLifetime(whole) {} }
            try read(first * width..<last * width, into: whole.slice(0..<(last - first) * width))
            let skip = range.lowerBound - first * width
            buffer.copyMemory(from: UnsafeRawBufferPointer(whole.slice(skip..<skip + range.count)))
            return
        }
        let columns = shape.last ?? 1, step = strides.last ?? 1
        let rowStride = shape.count > 1 ? strides[shape.count - 2] : 0
        if shape.count == 2, rowStride < step, first % columns == 0, last % columns == 0, rowStride > 0 {
            try gatherColumns(rows: first / columns..<last / columns, into: buffer)
        } else {
            var element = first
            while element < last {
                // The rest of this row, as one span of the file.
                let column = element % columns
                let count = min(columns - column, last - element)
                let source = start + position(element) * width
                try gatherRun(source, count, step, into: buffer, at: (element - first) * width)
                element += count
            }
        }
        if swap > 1 { Self.swap(buffer, swap) }
    }

    /// The storage element of a view's element.
    private func position(_ element: Int) -> Int {
        var rest = element, position = 0
        for dimension in shape.indices.reversed() {
            position += rest % shape[dimension] * strides[dimension]
            rest /= shape[dimension]
        }
        return position
    }

    private func gatherRun(
        _ source: Int, _ count: Int, _ step: Int, into buffer: UnsafeMutableRawBufferPointer, at place: Int
    ) throws {
        if step == 1 {
            try readExactly(into: UnsafeMutableRawBufferPointer(rebasing: buffer[place..<place + count * width]), at: source)
        } else if step <= 16 {
            let span = try AlignedBuffer(byteCount: ((count - 1) * step + 1) * width)
            defer { withExtendedLifetime(span) {} }
            try readExactly(into: span.slice(0..<((count - 1) * step + 1) * width), at: source)
            for index in 0..<count {
                let from = UnsafeRawBufferPointer(span.slice(index * step * width..<(index * step + 1) * width))
                UnsafeMutableRawBufferPointer(rebasing: buffer[(place + index * width)..<(place + (index + 1) * width)]).copyMemory(from: from)
            }
        } else {
            for index in 0..<count {
                try readExactly(
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[(place + index * width)..<(place + (index + 1) * width)]),
                    at: source + index * step * width)
            }
        }
    }

    /// Rows of a transposed matrix: its columns are runs of the file.
    private func gatherColumns(rows: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        let columns = shape[1], rowStride = strides[0]
        let span = try AlignedBuffer(byteCount: ((rows.count - 1) * rowStride + 1) * width)
        defer { withExtendedLifetime(span) {} }
        let bytes = span.slice(0..<((rows.count - 1) * rowStride + 1) * width)
        for column in 0..<columns {
            try readExactly(into: bytes, at: start + (rows.lowerBound * rowStride + column * strides[1]) * width)
            for row in 0..<rows.count {
                let from = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[row * rowStride * width..<(row * rowStride + 1) * width])
                let place = (row * columns + column) * width
                UnsafeMutableRawBufferPointer(rebasing: buffer[place..<place + width]).copyMemory(from: from)
            }
        }
    }

    private func readExactly(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
        guard try file.read(into: buffer, at: offset) == buffer.count else {
            throw ContainerFailure(file.path, "the file ended at byte \(offset) after it was opened; restore it and run again")
        }
    }

    static func swap(_ bytes: UnsafeMutableRawBufferPointer, _ width: Int) {
        for start in stride(from: 0, to: bytes.count, by: width) {
            for index in 0..<width / 2 { bytes.swapAt(start + index, start + width - 1 - index) }
        }
    }
}
