import CKernels
import Checkpoints
import Crypto
import Formats
import Tensors

/// Carries one weight from source to target, tile by tile, in one worker's memory; and audits it afterwards.
///
/// Writing and auditing produce a tile's bytes by the same function, so an audit is a second derivation from the source that
/// is compared with what the file holds.
struct WeightConverter {
    let checkpoint: Checkpoint
    let planned: PlannedWeight
    let weight: Weight
    private let sourceDigests: SourceDigests
    /// Of what is written: the weight, or the part of it that ``PlannedWeight/view`` shows.
    private let shape: MatrixShape
    private let source: PartLayout
    private let target: PartLayout
    private let alignment: Int
    private let repacking: Repacking?

    init(_ checkpoint: Checkpoint, _ planned: PlannedWeight, sourceDigests: SourceDigests = .none) {
        self.checkpoint = checkpoint
        self.planned = planned
        self.sourceDigests = sourceDigests
        weight = checkpoint.weights[planned.source]
        shape = planned.view?.shape ?? weight.shape
        source = PartLayout(parts: weight.parts, shape: weight.shape)
        target = PartLayout(parts: planned.layout?.parts(of: shape) ?? [], shape: shape)
        alignment = leastCommonMultiple(weight.layout?.rowAlignment ?? 1, planned.layout?.rowAlignment ?? 1)
        if planned.road == .repack, planned.view == nil, let from = weight.layout, let to = planned.layout,
            case .possible(let found) = Repacking.offer(from: from, to: to, shape: shape)
        {
            repacking = found.first
        } else {
            repacking = nil
        }
    }

    /// The rows of the source that some rows of the output are made of, cut as the source's layout asks.
    private func sourceRows(_ rows: Range<Int>) -> Range<Int> {
        guard let view = planned.view else { return rows }
        let unit = weight.layout?.rowAlignment ?? 1
        return view.rows.lowerBound / unit * unit..<min(weight.shape.rows, ceilingDivide(view.rows.upperBound, unit) * unit)
    }

    // MARK: Memory

    /// Where the buffers of a tile lie in the worker's memory.
    private struct Places {
        var source, whole, values, target, readBack, decoded: Range<Int>
        var total: Int { decoded.upperBound }
    }

    private func places(_ rows: Range<Int>) -> Places {
        var end = 0
        func take(_ size: Int) -> Range<Int> {
            defer { end += PartLayout.aligned(size) }
            return end..<(end + PartLayout.aligned(size))
        }
        let valueBytes = rows.count * shape.columns * 2
        // A repacking unpacks codes and scales beside these buffers, in less room than values would take.
        let needsValues = planned.road == .quantize || planned.road == .repack || planned.road == .dequantize && !isPlainBF16 || planned.view != nil
        let origin = sourceRows(rows)
        return Places(
            source: take(source.byteCount(origin)), whole: take(planned.view == nil ? 0 : origin.count * weight.shape.columns * 2),
            values: take(needsValues ? valueBytes : 0), target: take(target.byteCount(rows)), readBack: take(target.byteCount(rows)),
            decoded: take(planned.road == .quantize ? valueBytes : 0))
    }

    private var isPlainBF16: Bool { (planned.layout as? DenseLayout)?.type == .bf16 }

    /// The least working memory that this weight can be converted in.
    var minimumBytes: Int {
        planned.road == .passthrough ? 2 * 4096 : places(0..<min(smallestTile, shape.rows)).total
    }

    /// A part of a weight is taken at once: it is one attention head.
    private var smallestTile: Int { planned.view == nil ? alignment : shape.rows }

    /// Working memory that is worth having: for a tile that suits the caches, or for as many rows as the layouts prefer.
    var preferredBytes: Int {
        planned.road == .passthrough ? 2 * Self.preferredTile : max(2 * Self.preferredTile, places(0..<min(preferredRows, shape.rows)).total)
    }

    private var preferredRows: Int {
        let rows = max(weight.layout?.preferredRows ?? 1, planned.layout?.preferredRows ?? 1)
        return ceilingDivide(rows, alignment) * alignment
    }

    /// Rows a tile in `memory` bytes, a multiple of the alignment.
    private func rowsPerTile(_ memory: Int) -> Int {
        let unit = max(places(0..<min(smallestTile, shape.rows)).total, 1)
        func fitting(_ bytes: Int) -> Int { max(1, bytes / unit) * smallestTile }
        return max(fitting(min(memory, Self.preferredTile)), min(preferredRows, fitting(memory)))
    }

    /// Tiles larger than this gain nothing and lose the cache.
    static let preferredTile = 1 << 20

    // MARK: Writing

    func write(to file: PositionedFile, memory: UnsafeMutableRawBufferPointer, counters: RunCounters, stop: StopToken) throws {
        if planned.road == .passthrough {
            for (stored, tensor) in zip(weight.stored, planned.tensors) { try copy(stored, tensor, file, memory, counters, stop) }
            return
        }
        let layout = try layoutOverWholeRange(memory, stop)
        for rows in TileSequence(rows: shape.rows, step: rowsPerTile(memory.count)) {
            try checkStop(stop)
            let slices = try produce(rows, layout, memory, counters)
            for (index, slice) in slices.enumerated() {
                try file.write(UnsafeRawBufferPointer(slice), target.parts[index].runs(of: rows, in: shape), at: planned.tensors[index].offset)
                counters.bytesWritten.add(slice.count, ordering: .relaxed)
            }
        }
    }

    /// The planned layout; one that must know the range of its values first is told by a pass over all weights that share it.
    private func layoutOverWholeRange(_ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken) throws -> (any WeightLayout)? {
        guard let layout = planned.layout as? any WholeRangeLayout, !planned.rangeSources.isEmpty else { return planned.layout }
        var amax: UInt16 = 0
        for index in planned.rangeSources {
            let other = checkpoint.weights[index]
            guard let stored = other.layout else { continue }
            let parts = PartLayout(parts: other.parts, shape: other.shape)
            let unit = stored.rowAlignment
            func bytes(_ rows: Range<Int>) -> Int { parts.byteCount(rows) + PartLayout.aligned(rows.count * other.shape.columns * 2) }
            let unitBytes = max(1, bytes(0..<min(unit, other.shape.rows)))
            let fitting = max(min(memory.count, Self.preferredTile), min(memory.count, stored.preferredRows / unit * unitBytes)) / unitBytes
            // A partner may need a larger tile than this weight's memory holds.
            let spare = unitBytes > memory.count ? AlignedBuffer(byteCount: unitBytes) : nil
            let room = spare?.bytes ?? memory
            for rows in TileSequence(rows: other.shape.rows, step: max(1, fitting) * unit) {
                try checkStop(stop)
                let size = parts.byteCount(rows)
                let slices = parts.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: room[..<size]))
                try checkpoint.read(other, parts: parts.parts, rows: rows, into: slices)
                let values = self.values(room, size..<room.count, rows.count * other.shape.columns)
                stored.decode(slices.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: other.shape, into: values)
                amax = max(amax, ck_bf16_amax(KernelLevel.active.rawValue, values.baseAddress, other.shape.columns, rows.count, other.shape.columns))
            }
        }
        guard amax < 0x7F80 else { throw failure(.notFinite(row: 0)) }
        return layout.spanning(amax)
    }

    private func copy(
        _ stored: StoredTensor, _ tensor: PlannedTensor, _ file: PositionedFile, _ memory: UnsafeMutableRawBufferPointer,
        _ counters: RunCounters, _ stop: StopToken
    ) throws {
        var done = 0
        var inKernel = true
        while done < stored.byteCount {
            try checkStop(stop)
            let chunk = min(stored.byteCount - done, 8 << 20)
            if inKernel, let copied = checkpoint.files[stored.file].copy(chunk, at: stored.offset + done, to: file, at: tensor.offset + done) {
                counters.bytesRead.add(copied, ordering: .relaxed)
                counters.bytesWritten.add(copied, ordering: .relaxed)
                done += copied
                continue
            }
            // Not between these file systems, or the source ended: plain reads tell which.
            inKernel = false
            let piece = UnsafeMutableRawBufferPointer(rebasing: memory[..<min(chunk, memory.count, Self.preferredTile)])
            try checkpoint.read(stored, done..<(done + piece.count), into: piece)
            try file.write(UnsafeRawBufferPointer(piece), at: tensor.offset + done)
            counters.bytesRead.add(piece.count, ordering: .relaxed)
            counters.bytesWritten.add(piece.count, ordering: .relaxed)
            done += piece.count
        }
    }

    private func checkStop(_ stop: StopToken) throws {
        if stop.isStopped { throw CancellationError() }
    }

    /// Reads the source of a tile and derives its target bytes.
    private func produce(
        _ rows: Range<Int>, _ layout: (any WeightLayout)?, _ memory: UnsafeMutableRawBufferPointer, _ counters: RunCounters
    ) throws -> [UnsafeMutableRawBufferPointer] {
        guard let stored = weight.layout, let layout else { return [] }
        let places = places(rows)
        let origin = sourceRows(rows)
        let sources = source.slices(origin, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.source]))
        let targets = target.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.target]))
        try checkpoint.read(weight, parts: source.parts, rows: origin, into: sources)
        counters.bytesRead.add(sources.reduce(0) { $0 + $1.count }, ordering: .relaxed)
        let bytes = sources.map { UnsafeRawBufferPointer($0) }
        let count = rows.count * shape.columns
        do {
            if let view = planned.view {
                let values = values(memory, places.values, count)
                let whole = self.values(memory, places.whole, origin.count * weight.shape.columns)
                stored.decode(bytes, rows: origin, shape: weight.shape, into: whole)
                Self.take(view, of: whole, from: origin, columns: weight.shape.columns, into: values)
                try layout.encode(UnsafeBufferPointer(values), rows: rows, shape: shape, into: targets)
            } else if let repacking {
                repacking.repack(bytes, rows: rows, shape: shape, into: targets)
            } else if let from = stored as? DenseLayout, let to = layout as? DenseLayout {
                try to.convert(from: from, bytes[0], count: count, rows: rows, into: targets[0])
            } else if isPlainBF16 {
                stored.decode(bytes, rows: rows, shape: shape, into: targets[0].assumingMemoryBound(to: UInt16.self))
            } else {
                let values = values(memory, places.values, count)
                stored.decode(bytes, rows: rows, shape: shape, into: values)
                try layout.encode(UnsafeBufferPointer(values), rows: rows, shape: shape, into: targets)
            }
        } catch {
            throw failure(error)
        }
        return targets
    }

    /// The values that a view shows, out of the rows `origin` of its weight.
    private static func take(
        _ view: WeightView, of whole: UnsafeMutableBufferPointer<UInt16>, from origin: Range<Int>, columns: Int,
        into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        for (index, row) in view.rows.enumerated() {
            let start = (row - origin.lowerBound) * columns
            for column in 0..<columns {
                values[view.isTransposed ? column * view.rows.count + index : index * columns + column] = whole[start + column]
            }
        }
    }

    private func values(_ memory: UnsafeMutableRawBufferPointer, _ place: Range<Int>, _ count: Int) -> UnsafeMutableBufferPointer<UInt16> {
        UnsafeMutableRawBufferPointer(rebasing: memory[place.lowerBound..<(place.lowerBound + count * 2)]).assumingMemoryBound(to: UInt16.self)
    }

    private func failure(_ fault: EncodingFault) -> ConversionFailure {
        switch fault {
        case .notFinite(let row): .notFinite(weight: weight.name, row: row, file: checkpoint.fileName(of: weight))
        case .overflowsF16(let row): .overflowsF16(weight: weight.name, row: row)
        case .readOnly: .unsupported(weight: weight.name, layout: planned.layout?.name ?? "")
        }
    }

    // MARK: Auditing

    /// Reads back what `file` holds, compares it with a fresh derivation, and digests it.
    /// - Returns: the record and how many bytes differ.
    func audit(
        _ file: PositionedFile, memory: UnsafeMutableRawBufferPointer, counters: RunCounters, stop: StopToken
    ) throws -> (record: WeightRecord, differences: Int) {
        planned.road == .passthrough
            ? try auditCopy(file, memory, counters, stop) : try auditTiles(file, memory, counters, stop)
    }

    private func auditCopy(
        _ file: PositionedFile, _ memory: UnsafeMutableRawBufferPointer, _ counters: RunCounters, _ stop: StopToken
    ) throws -> (record: WeightRecord, differences: Int) {
        var differences = 0
        var record = WeightRecord(digests: [])
        let half = min(memory.count, 2 * Self.preferredTile) / 2 & ~63
        for (stored, tensor) in zip(weight.stored, planned.tensors) {
            var hash = SHA256()
            for start in stride(from: 0, to: stored.byteCount, by: half) {
                try checkStop(stop)
                let range = start..<min(start + half, stored.byteCount)
                let original = UnsafeMutableRawBufferPointer(rebasing: memory[..<range.count])
                let written = UnsafeMutableRawBufferPointer(rebasing: memory[half..<(half + range.count)])
                try checkpoint.read(stored, range, into: original)
                differences += try readBack(file, written, ByteRuns(range), at: tensor.offset, expected: original)
                hash.update(bufferPointer: UnsafeRawBufferPointer(written))
                if stored.type == .bf16 { record.notFinite += countNotFinite(written) }
                counters.bytesAudited.add(range.count, ordering: .relaxed)
            }
            let digest = Digest.hexadecimal(hash.finalize())
            // What differs from the source is a fault of the copy, reported as such; what equals it speaks for the source.
            if differences == 0 { try sourceDigests.check(stored, digest, in: checkpoint) }
            record.digests.append(digest)
        }
        return (record, differences)
    }

    private func countNotFinite(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        ck_bf16_count_nonfinite(bytes.assumingMemoryBound(to: UInt16.self).baseAddress, bytes.count / 2)
    }

    /// Fills `buffer` from the file and counts the bytes that differ from `expected`.
    private func readBack(
        _ file: PositionedFile, _ buffer: UnsafeMutableRawBufferPointer, _ runs: ByteRuns, at offset: Int, expected: UnsafeMutableRawBufferPointer
    ) throws -> Int {
        let count = try file.read(into: buffer, runs, at: offset)
        if count == expected.count, count == 0 || memcmp(buffer.baseAddress!, expected.baseAddress!, count) == 0 { return 0 }
        return expected.count - count + (0..<count).count { buffer[$0] != expected[$0] }
    }

    private func auditTiles(
        _ file: PositionedFile, _ memory: UnsafeMutableRawBufferPointer, _ counters: RunCounters, _ stop: StopToken
    ) throws -> (record: WeightRecord, differences: Int) {
        var hashes = planned.tensors.map { _ in SHA256() }
        var sourceHashes = planned.view == nil && sourceDigests.cover(weight) ? weight.stored.map { _ in SHA256() } : []
        let layout = try layoutOverWholeRange(memory, stop)
        var record = WeightRecord(digests: [])
        var differences = 0
        var sums = ck_error_sums()
        var amax: UInt16 = 0
        for rows in TileSequence(rows: shape.rows, step: rowsPerTile(memory.count)) {
            try checkStop(stop)
            let expected = try produce(rows, layout, memory, counters)
            let places = places(rows)
            let written = target.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.readBack]))
            for (index, slice) in written.enumerated() {
                let part = target.parts[index]
                let runs = part.runs(of: rows, in: shape)
                differences += try readBack(file, slice, runs, at: planned.tensors[index].offset, expected: expected[index])
                if part.isInRowOrder(rows) { hashes[index].update(bufferPointer: UnsafeRawBufferPointer(slice)) }
                counters.bytesAudited.add(slice.count, ordering: .relaxed)
            }
            if !sourceHashes.isEmpty {
                for (index, slice) in source.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.source])).enumerated()
                where source.parts[index].isInRowOrder(rows) {
                    sourceHashes[index].update(bufferPointer: UnsafeRawBufferPointer(slice))
                }
            }
            if planned.road == .quantize {
                amax = max(amax, measure(rows, written, memory, places, &sums))
            } else if isPlainBF16 {
                record.notFinite += countNotFinite(written[0])
            }
        }
        // Parts whose tiles are not runs of the file are digested by themselves.
        for index in hashes.indices where target.parts[index].isAlongRows {
            try digest(file, at: planned.tensors[index].offset, planned.tensors[index].byteCount, memory, stop, &hashes[index])
        }
        for index in sourceHashes.indices where source.parts[index].isAlongRows {
            let stored = weight.stored[index]
            try digest(checkpoint.files[stored.file], at: stored.offset, stored.byteCount, memory, stop, &sourceHashes[index])
        }
        for (stored, hash) in zip(weight.stored, sourceHashes) {
            try sourceDigests.check(stored, Digest.hexadecimal(hash.finalize()), in: checkpoint)
        }
        record.digests = hashes.map { Digest.hexadecimal($0.finalize()) }
        if planned.road == .quantize {
            record.error = WeightRecord.ErrorFigures(
                sqnr: sums.noise == 0 ? .infinity : 10 * log10(sums.signal / sums.noise), maximum: Double(sums.max_abs),
                amax: Double(BFloat16(bits: amax).value))
        }
        return (record, differences)
    }

    private func digest(
        _ file: PositionedFile, at offset: Int, _ size: Int, _ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken, _ hash: inout SHA256
    ) throws {
        for start in stride(from: 0, to: size, by: memory.count) {
            try checkStop(stop)
            let piece = UnsafeMutableRawBufferPointer(rebasing: memory[..<min(memory.count, size - start)])
            let count = try file.read(into: piece, at: offset + start)
            hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(piece)[..<count]))
        }
    }

    /// Adds the error of a quantized tile, row by row in a fixed order, so that the figures do not depend on the tiles.
    /// - Returns: the largest magnitude of the source's values, as BF16 bits.
    private func measure(
        _ rows: Range<Int>, _ written: [UnsafeMutableRawBufferPointer], _ memory: UnsafeMutableRawBufferPointer, _ places: Places,
        _ sums: inout ck_error_sums
    ) -> UInt16 {
        let columns = shape.columns
        let reference = values(memory, places.values, rows.count * columns)
        let decoded = values(memory, places.decoded, rows.count * columns)
        planned.layout?.decode(written.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: shape, into: decoded)
        for row in 0..<rows.count {
            ck_bf16_error(KernelLevel.active.rawValue, reference.baseAddress! + row * columns, decoded.baseAddress! + row * columns, columns, &sums)
        }
        return ck_bf16_amax(KernelLevel.active.rawValue, reference.baseAddress, columns, rows.count, columns)
    }
}

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif
