import CKernels
import Checkpoints
import Crypto
import Formats
import Runtime
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

extension WeightConverter {
    /// Reads back what `file` holds, compares it with a fresh derivation, and digests it.
    /// - Parameters:
    ///   - offsets: where the planned tensors begin in `file`.
    ///   - digests: what a calibration stage wrote, which is not derived from the weight alone: its digests are compared instead.
    /// - Returns: the record and how many bytes differ.
    func audit(
        _ file: any ByteSource, offsets: [Int], against digests: [String]? = nil, memory: UnsafeMutableRawBufferPointer, counters: RunCounters,
        stop: StopToken
    ) throws -> (record: WeightRecord, differences: Int) {
        if planned.road == .passthrough { return try auditCopy(file, offsets, memory, counters, stop) }
        let (record, differences) = try auditTiles(file, offsets, isDerived: digests == nil, memory, counters, stop)
        guard let digests, digests != record.digests else { return (record, differences) }
        return (record, zip(zip(digests, record.digests), planned.tensors).reduce(0) { $0 + ($1.0.0 == $1.0.1 ? 0 : $1.1.byteCount) })
    }

    private func auditCopy(
        _ file: any ByteSource, _ offsets: [Int], _ memory: UnsafeMutableRawBufferPointer, _ counters: RunCounters, _ stop: StopToken
    ) throws -> (record: WeightRecord, differences: Int) {
        var differences = 0
        var record = WeightRecord(digests: [])
        let half = min(memory.count, 2 * Self.preferredTile) / 2 & ~63
        for (stored, start) in zip(planned.passed(of: weight), offsets) {
            var hash = SHA256()
            var target = start
            for run in copiedRuns(stored).ranges {
                for first in stride(from: run.lowerBound, to: run.upperBound, by: half) {
                    try checkStop(stop)
                    let range = first..<min(first + half, run.upperBound)
                    let original = UnsafeMutableRawBufferPointer(rebasing: memory[..<range.count])
                    let written = UnsafeMutableRawBufferPointer(rebasing: memory[half..<(half + range.count)])
                    try checkpoint.read(stored, range, into: original)
                    differences += Self.differences(written, try file.read(into: written, at: target), original)
                    hash.update(bufferPointer: UnsafeRawBufferPointer(written))
                    record.notFinite += stored.type.countNotFinite(UnsafeRawBufferPointer(written))
                    counters.bytesAudited.add(range.count, ordering: .relaxed)
                    target += range.count
                }
            }
            let digest = hash.finalize().hexadecimal
            // What differs from the source is a fault of the copy, reported as such; what equals it speaks for the source.
            if differences == 0, planned.split == nil { try sourceDigests.check(stored, digest, in: checkpoint) }
            record.digests.append(digest)
        }
        return (record, differences)
    }

    /// How many bytes differ from those that were expected, of which the file had the first `count`.
    private static func differences(_ buffer: UnsafeMutableRawBufferPointer, _ count: Int, _ expected: UnsafeMutableRawBufferPointer) -> Int {
        if count == expected.count, count == 0 || memcmp(buffer.baseAddress!, expected.baseAddress!, count) == 0 { return 0 }
        return expected.count - count + (0..<count).count { buffer[$0] != expected[$0] }
    }

    private func auditTiles(
        _ file: any ByteSource, _ offsets: [Int], isDerived: Bool, _ memory: UnsafeMutableRawBufferPointer, _ counters: RunCounters,
        _ stop: StopToken
    ) throws -> (record: WeightRecord, differences: Int) {
        var hashes = planned.tensors.map { _ in SHA256() }
        var sourceHashes = planned.view == nil && sourceDigests.cover(weight) ? weight.stored.map { _ in SHA256() } : []
        let layout = try layoutOverWholeRange(memory, stop)
        var memory = memory
        let held = hold(&memory)
        var record = WeightRecord(digests: [])
        var differences = 0
        var sums = ck_error_sums()
        var amax: UInt32 = 0
        for band in TileSequence(of: shape, step: held?.rows ?? shape.rows) {
            try held?.forEachPiece(of: band) { part, runs, piece in
                try checkStop(stop)
                guard try file.read(into: piece, runs, at: offsets[part]) == piece.count else {
                    throw ShortRead(path: file.path, tensor: planned.tensors[part].name, offset: offsets[part] + runs.start)
                }
            }
            for rows in tiles(of: band, memory.count, isHeld: held != nil) {
                try checkStop(stop)
                // What is not derived from the weight alone is not derived again; its values are still needed, to measure the error.
                let expected = try produce(rows, layout, memory, counters, encodes: isDerived)
                let places = places(rows)
                let written = target.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.readBack]))
                for (index, slice) in written.enumerated() {
                    let part = target.parts[index]
                    let isHeld = held?.load(slice, part: index, rows, of: band) == true
                    let count = try isHeld ? slice.count : file.read(into: slice, part.runs(of: rows, in: shape), at: offsets[index])
                    differences += isDerived ? Self.differences(slice, count, expected[index]) : slice.count - count
                    if part.isInRowOrder(rows) { hashes[index].update(bufferPointer: UnsafeRawBufferPointer(slice)) }
                    counters.bytesAudited.add(slice.count, ordering: .relaxed)
                }
                if !sourceHashes.isEmpty {
                    for (index, slice) in source.slices(rows, in: UnsafeMutableRawBufferPointer(rebasing: memory[places.source])).enumerated()
                    where source.parts[index].isInRowOrder(rows) {
                        sourceHashes[index].update(bufferPointer: UnsafeRawBufferPointer(slice))
                    }
                }
                for (part, slice) in zip(target.parts, written) where part.rows != .whole || rows.lowerBound == 0 {
                    record.notFinite += part.type.countNotFinite(UnsafeRawBufferPointer(slice))
                }
                if planned.road == .quantize {
                    amax = max(amax, measure(rows, written, memory, places, &sums, &record.notFinite))
                }
            }
        }
        // Parts whose tiles are not runs of the file are digested by themselves.
        for index in hashes.indices where target.parts[index].isAlongRows {
            if let whole = held?[index] {
                hashes[index].update(bufferPointer: UnsafeRawBufferPointer(whole))
                continue
            }
            let tensor = planned.tensors[index]
            try digest(file, tensor.name, at: offsets[index], tensor.byteCount, memory, stop, &hashes[index])
        }
        for index in sourceHashes.indices where source.parts[index].isAlongRows {
            let stored = weight.stored[index]
            try digest(checkpoint.files[stored.file], stored.name, at: stored.offset, stored.byteCount, memory, stop, &sourceHashes[index])
        }
        for (stored, hash) in zip(weight.stored, sourceHashes) {
            try sourceDigests.check(stored, hash.finalize().hexadecimal, in: checkpoint)
        }
        record.digests = hashes.map { $0.finalize().hexadecimal }
        if planned.road == .quantize {
            record.error = WeightRecord.ErrorFigures(
                sqnr: sums.noise == 0 ? .infinity : 10 * log10(sums.signal / sums.noise), maximum: Double(sums.max_abs),
                amax: Double(Float(bitPattern: amax)))
        }
        return (record, differences)
    }

    private func digest(
        _ file: any ByteSource, _ tensor: String, at offset: Int, _ size: Int, _ memory: UnsafeMutableRawBufferPointer, _ stop: StopToken,
        _ hash: inout SHA256
    ) throws {
        for start in stride(from: 0, to: size, by: memory.count) {
            try checkStop(stop)
            let piece = UnsafeMutableRawBufferPointer(rebasing: memory[..<min(memory.count, size - start)])
            let count = try file.read(into: piece, at: offset + start)
            guard count == piece.count else { throw ShortRead(path: file.path, tensor: tensor, offset: offset + start + count) }
            hash.update(bufferPointer: UnsafeRawBufferPointer(piece))
        }
    }

    /// Adds the error of a quantized tile, row by row in a fixed order, so that the figures do not depend on the tiles.
    /// - Returns: the largest magnitude of the source's values, as F32 bits: those of NaN are above all others.
    private func measure(
        _ rows: Range<Int>, _ written: [UnsafeMutableRawBufferPointer], _ memory: UnsafeMutableRawBufferPointer, _ places: Places,
        _ sums: inout ck_error_sums, _ notFinite: inout Int
    ) -> UInt32 {
        let columns = shape.columns
        let bytes = written.map { UnsafeRawBufferPointer($0) }
        if wide != nil, let layout = planned.layout as? any WideLayout {
            let reference = values(memory, places.values, rows.count * columns, as: Float.self)
            let decoded = values(memory, places.decoded, rows.count * columns, as: Float.self)
            layout.decodeFloats(bytes, rows: rows, shape: shape, into: decoded)
            for row in 0..<rows.count {
                ck_f32_error(reference.baseAddress! + row * columns, decoded.baseAddress! + row * columns, columns, &sums)
            }
            if !sums.max_abs.isFinite { notFinite += ScalarType.f32.countNotFinite(UnsafeRawBufferPointer(UnsafeBufferPointer(decoded))) }
            return reference.reduce(0) { max($0, $1.bitPattern & 0x7FFF_FFFF) }
        }
        let reference = values(memory, places.values, rows.count * columns, as: UInt16.self)
        let decoded = values(memory, places.decoded, rows.count * columns, as: UInt16.self)
        planned.layout?.decode(bytes, rows: rows, shape: shape, into: decoded)
        for row in 0..<rows.count {
            ck_bf16_noise(KernelLevel.active.rawValue, reference.baseAddress! + row * columns, decoded.baseAddress! + row * columns, columns, &sums)
        }
        // Codes of finite values may still decode to infinities, where a scale was rounded up at the end of its range.
        if !sums.max_abs.isFinite { notFinite += ScalarType.bf16.countNotFinite(UnsafeRawBufferPointer(UnsafeBufferPointer(decoded))) }
        return UInt32(ck_bf16_amax(KernelLevel.active.rawValue, reference.baseAddress, columns, rows.count, columns)) << 16
    }
}
