import Architectures
import CKernels
import Checkpoints
import Formats
import Quantization
import Runtime
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Carries one weight from source to target, tile by tile, in one worker's memory; and audits it afterwards.
///
/// Writing and auditing produce a tile's bytes by the same function, so an audit is a second derivation from the source that
/// is compared with what the file holds.
struct WeightConverter {
    let checkpoint: Checkpoint
    let planned: PlannedWeight
    let weight: Weight
    let sourceDigests: SourceDigests
    /// How much columns count, for quantizers that ask.
    let importance: [Float]?
    /// Of what is written: the weight, or the part of it that ``PlannedWeight/view`` shows.
    let shape: MatrixShape
    let source: PartLayout
    let target: PartLayout
    /// Whether NaN and infinities are carried.
    let allowsNonFinite: Bool
    /// Whether what is copied is looked at for zeros, rather than copied inside the kernel.
    private let isSparse: Bool
    /// Whether what is written is read back from a compressed container, to which every band would be another pass over all of it.
    private let isPacked: Bool
    private let ranges: SharedRanges
    private let alignment: Int

    init(
        _ checkpoint: Checkpoint, _ planned: PlannedWeight, sourceDigests: SourceDigests = .none, statistics: InputStatistics? = nil,
        allowsNonFinite: Bool = false, isSparse: Bool = false, isPacked: Bool = false, ranges: SharedRanges = SharedRanges()
    ) {
        self.isSparse = isSparse
        self.isPacked = isPacked
        self.ranges = ranges
        self.allowsNonFinite = allowsNonFinite
        self.checkpoint = checkpoint
        self.planned = planned
        self.sourceDigests = sourceDigests
        weight = checkpoint.weights[planned.source]
        shape = planned.view?.shape ?? weight.shape
        importance =
            planned.quantizer.needs == .moments
            ? statistics?.importance(of: planned, module: String(weight.module), columns: shape.columns, roles: checkpoint.roles) : nil
        source = PartLayout(parts: weight.parts, shape: weight.shape)
        target = PartLayout(parts: planned.layout?.parts(of: shape) ?? [], shape: shape)
        alignment = [weight.layout?.rowAlignment, planned.layout?.rowAlignment, planned.view?.rowAlignment].reduce(1) {
            leastCommonMultiple($0, $1 ?? 1)
        }
    }

    /// The rows of the source that some rows of the output are made of, cut as the source's layout asks.
    private func sourceRows(_ rows: Range<Int>) -> Range<Int> {
        guard let view = planned.view else { return rows }
        let unit = weight.layout?.rowAlignment ?? 1
        let wanted = view.isTransposed ? view.rows : view.span(of: rows)
        return wanted.lowerBound / unit * unit..<min(weight.shape.rows, ceilingDivide(wanted.upperBound, unit) * unit)
    }

    // MARK: Memory

    /// Where the buffers of a tile lie in the worker's memory.
    struct Places {
        var source, whole, values, target, readBack, decoded: Range<Int>
        var total: Int { decoded.upperBound }
    }

    func places(_ rows: Range<Int>) -> Places {
        var end = 0
        func take(_ size: Int) -> Range<Int> {
            defer { end += PartLayout.aligned(size) }
            return end..<(end + PartLayout.aligned(size))
        }
        let width = wide == nil ? 2 : 4
        let valueBytes = rows.count * shape.columns * width
        // A repacking unpacks codes and scales beside these buffers, in less room than values would take.
        let decodesWhole = planned.view != nil && picked == nil
        let isDirect = weight.layout?.denseType != nil && planned.layout?.denseType != nil
        let needsValues =
            planned.road == .quantize || planned.road == .repack || planned.road == .dequantize && !isPlainBF16
            || planned.road == .cast && !isDirect || planned.view != nil
        let origin = sourceRows(rows)
        let read = take(source.byteCount(origin))
        return Places(
            source: read, whole: take(decodesWhole ? origin.count * weight.shape.columns * width : 0),
            values: readsValues ? read : take(needsValues ? valueBytes : 0), target: take(target.byteCount(rows)),
            readBack: take(target.byteCount(rows)),
            decoded: take(planned.road == .quantize ? valueBytes : 0))
    }

    /// Source and target of a weight whose values pass between them as F32: numbers wider than BF16 go to whoever takes them, and what is computed
    /// in F32 goes to numbers of F32 or more. (F16 of FP8 is F16 of the BF16 model, as llama.cpp's converter has it of the published one.)
    var wide: (source: any WideLayout, target: any WideTarget)? {
        guard !isPlainBF16, let source = (picked?.layout ?? weight.layout) as? any WideLayout, source.exceedsBF16,
            let target = planned.layout as? any WideTarget, source.staysWideForCodes || target.denseType.map({ $0.bitWidth > 16 }) == true
        else { return nil }
        return (source, target)
    }

    /// Whether what is read is what is quantized.
    private var readsValues: Bool {
        planned.road == .quantize && planned.view == nil && wide == nil && weight.layout?.isPlainBF16 == true
    }

    var isPlainBF16: Bool { planned.layout?.isPlainBF16 == true }

    /// The least working memory that this weight can be converted in.
    var minimumBytes: Int {
        planned.road == .passthrough ? 2 * 4096 : places(0..<min(smallestTile, shape.rows)).total
    }

    /// A transposed part of a weight is taken at once: it is one attention head.
    private var smallestTile: Int { planned.view?.isTransposed == true ? shape.rows : alignment }

    /// Working memory that is worth having within a limit: for a tile that suits the caches and what is held, or else for as many
    /// rows as the layouts prefer.
    func preferredBytes(within limit: Int) -> Int {
        if planned.road == .passthrough { return 2 * Self.preferredTile }
        let tile = places(0..<min(heldRows, shape.rows)).total
        // A sixteenth, so that wide weights do not take all that they are given; but no runs that are shorter than those of tiles by themselves.
        let wished = isPacked ? limit : max(limit / 16, bytesHeld(max(heldRows, preferredRows)))
        guard let band = bandFitting(min(wished, limit - tile)) else { return tileBytes }
        return max(2 * Self.preferredTile, tile + bytesHeld(band))
    }

    /// The same where nothing is held.
    var tileBytes: Int { max(2 * Self.preferredTile, places(0..<min(preferredRows, shape.rows)).total) }

    private func bytesHeld(_ rows: Int) -> Int { HeldParts.byteCount(of: target, rows: min(rows, shape.rows)) }

    /// Rows of the band for which so much memory can hold parts: all, or as many tiles as it has room for; nil if there is nothing to hold, or no room.
    private func bandFitting(_ memory: Int) -> Int? {
        let whole = bytesHeld(shape.rows)
        guard whole > 0 else { return nil }
        if whole <= memory { return shape.rows }
        let band = memory / max(1, bytesHeld(heldRows)) * heldRows
        return band > 0 ? band : nil
    }

    /// Rows of a tile whose pieces go to where they are held: as few as fill cache lines there, or half of one where wide weights would need many
    /// megabytes; more where the source is read in such pieces too.
    private var heldRows: Int {
        func rounded(_ rows: Int) -> Int { ceilingDivide(rows, alignment) * alignment }
        let readsPieces = source.parts.contains { $0.isAlongRows }
        let wished = readsPieces ? [preferredRows, 512, 256, 128] : [256, 128]
        let rows = wished.map(rounded).first { places(0..<min($0, shape.rows)).total <= (readsPieces ? 16 : 8) << 20 } ?? rounded(64)
        return max(rows, smallestTile)
    }

    /// Takes room for the parts that are held from the end of a worker's memory.
    /// - Returns: nil if there are none, or not enough memory.
    func hold(_ memory: inout UnsafeMutableRawBufferPointer) -> HeldParts? {
        guard shape.columns > 0, let band = bandFitting(memory.count - places(0..<min(heldRows, shape.rows)).total) else { return nil }
        let rest = (memory.count - bytesHeld(band)) & ~63
        defer { memory = UnsafeMutableRawBufferPointer(rebasing: memory[..<rest]) }
        return HeldParts(of: target, rows: band, in: UnsafeMutableRawBufferPointer(rebasing: memory[rest...]))
    }

    private var preferredRows: Int {
        let rows = max(weight.layout?.preferredRows ?? 1, planned.layout?.preferredRows ?? 1)
        return ceilingDivide(rows, alignment) * alignment
    }

    /// Rows a tile in `memory` bytes, a multiple of the alignment.
    func rowsPerTile(_ memory: Int, isHeld: Bool) -> Int {
        let unit = max(places(0..<min(smallestTile, shape.rows)).total, 1)
        func fitting(_ bytes: Int) -> Int { max(1, bytes / unit) * smallestTile }
        // What is held leaves room for a tile of so many rows.
        return max(fitting(min(memory, Self.preferredTile)), isHeld ? heldRows : min(preferredRows, fitting(memory)))
    }

    /// Some rows of the weight, tile after tile.
    func tiles(of band: Range<Int>, _ memory: Int, isHeld: Bool) -> some Sequence<Range<Int>> {
        TileSequence(rows: band.count, step: rowsPerTile(memory, isHeld: isHeld)).lazy.map { rows in
            rows.lowerBound + band.lowerBound..<rows.upperBound + band.lowerBound
        }
    }

    /// Tiles larger than this gain nothing and lose the cache.
    static let preferredTile = 1 << 20

    // MARK: Writing

    func write(to file: PositionedFile, memory: UnsafeMutableRawBufferPointer, counters: RunCounters, stop: StopToken) throws {
        try checkFigures(memory, stop)
        if planned.road == .passthrough {
            for (stored, tensor) in zip(planned.passed(of: weight), planned.tensors) { try copy(stored, tensor, file, memory, counters, stop) }
            return
        }
        let layout = try layoutOverWholeRange(memory, stop)
        var memory = memory
        let held = hold(&memory)
        for band in TileSequence(of: shape, step: held?.rows ?? shape.rows) {
            for rows in tiles(of: band, memory.count, isHeld: held != nil) {
                try checkStop(stop)
                let slices = try produce(rows, layout, memory, counters)
                for (index, slice) in slices.enumerated() {
                    if held?.store(slice, part: index, rows, of: band) != true {
                        let runs = target.parts[index].runs(of: rows, in: shape)
                        try file.write(UnsafeRawBufferPointer(slice), runs, at: planned.tensors[index].offset)
                    }
                    counters.bytesWritten.add(slice.count, ordering: .relaxed)
                }
            }
            try held?.forEachPiece(of: band) { part, runs, piece in
                try checkStop(stop)
                try file.write(UnsafeRawBufferPointer(piece), runs, at: planned.tensors[part].offset)
            }
        }
    }

    /// The planned layout; one that must know the range of its values first is told by a pass over all weights that share it.
    func layoutOverWholeRange(_ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken) throws -> (any WeightLayout)? {
        guard let layout = planned.layout as? any WholeRangeLayout, !planned.rangeSources.isEmpty else { return planned.layout }
        let sources = planned.rangeSources
        let amax = try sources.map { index in try ranges.amax(of: index, uses: sources.count) { try self.amax(of: index, memory, stop) } }.max() ?? 0
        guard amax < 0x7F80 else { throw failure(.notFinite(row: 0)) }
        return layout.spanning(amax)
    }

    /// The largest magnitude of one of the source's weights, as BF16 bits.
    private func amax(of index: Int, _ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken) throws -> UInt16 {
        let other = checkpoint.weights[index]
        guard let stored = other.layout else { return 0 }
        var amax: UInt16 = 0
        let parts = PartLayout(parts: other.parts, shape: other.shape)
        let unit = stored.rowAlignment
        func bytes(_ rows: Range<Int>) -> Int { parts.byteCount(rows) + PartLayout.aligned(rows.count * other.shape.columns * 2) }
        let unitBytes = max(1, bytes(0..<min(unit, other.shape.rows)))
        let fitting = max(min(memory.count, Self.preferredTile), min(memory.count, stored.preferredRows / unit * unitBytes)) / unitBytes
        // A partner may need a larger tile than this weight's memory holds.
        let spare = unitBytes > memory.count ? try AlignedBuffer(byteCount: unitBytes) : nil
        defer { withExtendedLifetime(spare) {} }
        let room = spare?.bytes ?? memory
        for rows in TileSequence(of: other.shape, step: max(1, fitting) * unit) {
            try checkStop(stop)
            let size = parts.byteCount(rows)
            let slices = parts.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: room[..<size]))
            try checkpoint.read(other, parts: parts.parts, rows: rows, into: slices)
            var values = self.values(room, 0..<size, rows.count * other.shape.columns, as: UInt16.self)
            if !stored.isPlainBF16 {
                values = self.values(room, size..<room.count, values.count, as: UInt16.self)
                stored.decode(slices.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: other.shape, into: values)
            }
            amax = max(amax, ck_bf16_amax(KernelLevel.active.rawValue, values.baseAddress, other.shape.columns, rows.count, other.shape.columns))
        }
        return amax
    }

    /// Looks at every scale and zero point of the source before the first byte of the weight is written: one that is no number makes its whole
    /// block none, and what only looks like a conversion is then worse than none.
    private func checkFigures(_ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken) throws {
        guard !allowsNonFinite, let layout = weight.layout, !layout.isDense, planned.view.map({ $0.rows.lowerBound == 0 }) ?? true else { return }
        let piece = min(memory.count, Self.preferredTile) / 96 * 96
        var hasZeros = false
        for (part, stored) in zip(source.parts, weight.stored) where part.holdsFigures {
            for start in stride(from: 0, to: stored.byteCount, by: piece) {
                try checkStop(stop)
                let bytes = UnsafeMutableRawBufferPointer(rebasing: memory[..<min(piece, stored.byteCount - start)])
                try checkpoint.read(stored, start..<start + bytes.count, into: bytes)
                if part.isScale, !layout.hasSignedScales, part.type.hasZero(UnsafeRawBufferPointer(bytes)) { hasZeros = true }
                guard let fault = layout.fault(in: part, UnsafeRawBufferPointer(bytes)) else { continue }
                throw CheckpointFailure.badFigure(
                    tensor: stored.name, file: checkpoint.fileNames[stored.file], index: start * 8 / stored.type.bitWidth + fault.index, fault)
            }
        }
        if hasZeros { try refuseLostScales(layout, memory, stop) }
    }

    /// A scale of zero makes zeros of whatever codes it has, and codes that are not zero are not written beside one: they have lost theirs.
    /// Decoded with ones where the zeros are and zeros everywhere else, such codes show.
    private func refuseLostScales(_ layout: any WeightLayout, _ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken) throws {
        let unit = layout.rowAlignment
        func bytes(_ rows: Range<Int>) -> Int { source.byteCount(rows) + PartLayout.aligned(rows.count * weight.shape.columns * 2) }
        let unitBytes = max(1, bytes(0..<min(unit, weight.shape.rows)))
        let spare = unitBytes > memory.count ? try AlignedBuffer(byteCount: unitBytes) : nil
        defer { withExtendedLifetime(spare) {} }
        let room = spare?.bytes ?? memory
        for rows in TileSequence(of: weight.shape, step: max(1, min(room.count, 4 << 20) / unitBytes) * unit) {
            try checkStop(stop)
            let slices = source.slices(rows, in: room)
            try checkpoint.read(weight, parts: source.parts, rows: rows, into: slices)
            var hasZeros = false
            var scale = 0
            for (index, part) in source.parts.enumerated() where part.isScale {
                // One scale for the tensor is looked at by itself.
                if part.type.invertZeros(slices[index]) {
                    (hasZeros, scale) = (true, index)
                } else if part.rows == .whole {
                    part.type.fillOnes(slices[index])
                }
            }
            guard hasZeros else { continue }
            let size = source.byteCount(rows)
            let values = values(room, size..<room.count, rows.count * weight.shape.columns, as: UInt16.self)
            layout.decode(slices.map { UnsafeRawBufferPointer($0) }, rows: rows, shape: weight.shape, into: values)
            guard let place = values.firstIndex(where: { $0 & 0x7FFF != 0 }) else { continue }
            let stored = weight.stored[scale]
            throw CheckpointFailure.badFigure(
                tensor: stored.name, file: checkpoint.fileNames[stored.file], index: rows.lowerBound + place / max(1, weight.shape.columns),
                StoredFault(index: 0, value: "a scale of zero for codes that are not", reason: "the codes have lost their scale"))
        }
    }

    /// The bytes of a stored tensor that are copied, one planned tensor's.
    func copiedRuns(_ stored: StoredTensor) -> ByteRuns {
        planned.split.map { $0.runs(in: stored.shape, byteCount: stored.byteCount) } ?? ByteRuns(0..<stored.byteCount)
    }

    private func copy(
        _ stored: StoredTensor, _ tensor: PlannedTensor, _ file: PositionedFile, _ memory: UnsafeMutableRawBufferPointer,
        _ counters: RunCounters, _ stop: StopToken
    ) throws {
        let source = checkpoint.files[stored.file]
        var target = tensor.offset
        var inKernel = !isSparse
        for run in copiedRuns(stored).ranges {
            var done = run.lowerBound
            while done < run.upperBound {
                try checkStop(stop)
                let chunk = min(run.upperBound - done, 8 << 20)
                var copied: Int?
                // Short runs cost more as system calls than as copies.
                if inKernel, chunk >= 64 << 10, let place = source.stored(chunk, at: stored.offset + done) {
                    copied = place.file.copy(place.count, at: place.offset, to: file, at: target)
                    // Not between these file systems, or the source ended: plain reads tell which.
                    inKernel = copied != nil
                }
                if copied == nil {
                    let piece = UnsafeMutableRawBufferPointer(rebasing: memory[..<min(chunk, memory.count, Self.preferredTile)])
                    try checkpoint.read(stored, done..<(done + piece.count), into: piece)
                    try file.write(UnsafeRawBufferPointer(piece), at: target)
                    copied = piece.count
                }
                let count = copied ?? 0
                counters.bytesRead.add(count, ordering: .relaxed)
                counters.bytesWritten.add(count, ordering: .relaxed)
                done += count
                target += count
            }
        }
    }

    func checkStop(_ stop: StopToken) throws {
        if stop.isStopped { throw CancellationError() }
    }

    /// Reads the source of a tile and derives its target bytes, or with `encodes` false its values only.
    func produce(
        _ rows: Range<Int>, _ layout: (any WeightLayout)?, _ memory: UnsafeMutableRawBufferPointer, _ counters: RunCounters, encodes: Bool = true
    ) throws -> [UnsafeMutableRawBufferPointer] {
        guard let stored = picked?.layout ?? weight.layout, let layout else { return [] }
        let places = places(rows)
        let origin = sourceRows(rows)
        let sources = source.slices(origin, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.source]))
        let targets = target.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.target]))
        try checkpoint.read(weight, parts: source.parts, rows: origin, into: sources)
        counters.bytesRead.add(sources.reduce(0) { $0 + $1.count }, ordering: .relaxed)
        let picked = picked
        let bytes = (picked?.parts ?? sources.indices).map { index in
            UnsafeRawBufferPointer(picked?.view.map { Self.gather(sources[index], source.parts[index], $0, count: rows.count) } ?? sources[index])
        }
        let count = rows.count * shape.columns
        do {
            let view = picked == nil ? planned.view : nil
            if view == nil, case .repack(let repacking) = planned.way {
                repacking.repack(bytes, rows: rows, shape: shape, into: targets)
            } else if view == nil, let from = stored as? any UncodedLayout, let to = layout as? any UncodedLayout {
                try to.convert(from: from, bytes[0], count: count, rows: rows, into: targets[0])
            } else if let wide {
                let floats = values(memory, places.values, count, as: Float.self)
                decode(view, rows, from: origin, memory, places, into: floats) { wide.source.decodeFloats(bytes, rows: $0, shape: $1, into: $2) }
                guard encodes else { return targets }
                let importance = planned.quantizer.needs == .moments ? importance : nil
                try wide.target.encode(
                    floats: UnsafeBufferPointer(floats), rows: rows, shape: shape, importance: importance, into: targets)
            } else if view == nil, isPlainBF16 {
                stored.decode(bytes, rows: rows, shape: shape, into: targets[0].assumingMemoryBound(to: UInt16.self))
            } else {
                let values = values(memory, places.values, count, as: UInt16.self)
                if !readsValues {
                    decode(view, rows, from: origin, memory, places, into: values) { stored.decode(bytes, rows: $0, shape: $1, into: $2) }
                }
                guard encodes else { return targets }
                try encode(values, rows, layout, targets)
            }
        } catch let fault as EncodingFault {
            throw failure(fault)
        }
        return targets
    }

    /// Decodes the rows of a tile; those of a view by way of the rows `origin` of its weight.
    private func decode<Value>(
        _ view: WeightView?, _ rows: Range<Int>, from origin: Range<Int>, _ memory: UnsafeMutableRawBufferPointer, _ places: Places,
        into values: UnsafeMutableBufferPointer<Value>,
        _ decode: (_ rows: Range<Int>, _ shape: MatrixShape, _ values: UnsafeMutableBufferPointer<Value>) -> Void
    ) {
        guard let view else { return decode(rows, shape, values) }
        let whole = self.values(memory, places.whole, origin.count * weight.shape.columns, as: Value.self)
        decode(origin, weight.shape, whole)
        Self.take(view, rows, of: whole, from: origin, columns: weight.shape.columns, into: values)
    }

    private func encode(
        _ values: UnsafeMutableBufferPointer<UInt16>, _ rows: Range<Int>, _ layout: any WeightLayout, _ targets: [UnsafeMutableRawBufferPointer]
    ) throws {
        try SearchedEncoding.encode(
            UnsafeBufferPointer(values), rows: rows, shape: shape, layout: layout, quantizer: planned.quantizer, importance: importance,
            into: targets)
    }

    /// The stored rows of a view, where they can be picked before anything is decoded.
    private struct PickedRows {
        /// Of those rows by themselves.
        var layout: any WeightLayout
        /// Among the weight's parts.
        var parts: Range<Int>
        /// How the rows lie there; nil where they follow each other.
        var view: WeightView?
    }

    /// Rows that lie apart, or in another order, and are stored each by itself, or half of a pair that is stored by itself.
    private var picked: PickedRows? {
        guard let view = planned.view, view.picksRows, let layout = weight.layout else { return nil }
        if let pair = layout as? any PairedLayout, view.step == 2 {
            let half = view.rows.lowerBound
            return PickedRows(layout: pair.half(half), parts: pair.places(of: half, in: weight.shape))
        }
        guard source.parts.allSatisfy({ $0.rows == .every(1) || $0.rows == .whole }) else { return nil }
        return PickedRows(layout: layout, parts: source.parts.indices, view: view)
    }

    /// Brings the stored rows that `count` rows of a view are to the start of a tile, in the view's order.
    private static func gather(_ slice: UnsafeMutableRawBufferPointer, _ part: WeightPart, _ view: WeightView, count: Int)
        -> UnsafeMutableRawBufferPointer
    {
        guard part.rows != .whole, count > 0, let base = slice.baseAddress else { return slice }
        guard let head = view.headRows else {
            let size = slice.count / ((count - 1) * view.step + 1)
            for row in 1..<max(1, count) { memmove(base + row * size, base + row * view.step * size, size) }
            return UnsafeMutableRawBufferPointer(rebasing: slice[..<(count * size)])
        }
        // Tiles are whole heads.
        let size = slice.count / count
        withUnsafeTemporaryAllocation(byteCount: head * size, alignment: 64) { room in
            for start in stride(from: 0, to: count / head * head, by: head) {
                room.copyMemory(from: UnsafeRawBufferPointer(rebasing: slice[start * size..<(start + head) * size]))
                for row in 0..<head { memcpy(base + (start + row) * size, room.baseAddress! + view.row(row) * size, size) }
            }
        }
        return slice
    }

    /// The values of the rows `rows` of a view, out of the rows `origin` of its weight.
    private static func take<Value>(
        _ view: WeightView, _ rows: Range<Int>, of whole: UnsafeMutableBufferPointer<Value>, from origin: Range<Int>, columns: Int,
        into values: UnsafeMutableBufferPointer<Value>
    ) {
        if view.isTransposed {
            for (index, row) in view.rows.enumerated() {
                let start = (row - origin.lowerBound) * columns
                for column in 0..<columns { values[column * view.rows.count + index] = whole[start + column] }
            }
            return
        }
        let width = view.columns.count
        for (index, row) in rows.enumerated() {
            let start = (view.row(row) - origin.lowerBound) * columns + view.columns.lowerBound
            guard width > 0, let target = values.baseAddress, let source = whole.baseAddress else { continue }
            (target + index * width).update(from: source + start, count: width)
        }
    }

    func values<Value>(
        _ memory: UnsafeMutableRawBufferPointer, _ place: Range<Int>, _ count: Int, as type: Value.Type
    ) -> UnsafeMutableBufferPointer<Value> {
        let bytes = place.lowerBound..<(place.lowerBound + count * MemoryLayout<Value>.stride)
        return UnsafeMutableRawBufferPointer(rebasing: memory[bytes]).assumingMemoryBound(to: type)
    }

    func failure(_ fault: EncodingFault) -> ConversionFailure { ConversionFailure(fault, weight: weight, layout: planned.layout, of: checkpoint) }
}

extension ConversionFailure {
    /// A value that a layout cannot hold, and where it is.
    package init(_ fault: EncodingFault, weight: Weight, layout: (any WeightLayout)?, of checkpoint: Checkpoint) {
        switch fault {
        case .notFinite(let row): self = .notFinite(weight: weight.name, row: row, file: checkpoint.fileName(of: weight))
        case .overflowsF16(let row): self = .overflowsF16(weight: weight.name, row: row)
        case .readOnly: self = .unsupported(weight: weight.name, layout: layout?.name ?? "")
        }
    }
}
