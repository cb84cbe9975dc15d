import Checkpoints
import Formats
import Tensors

extension PlanDraft {
    /// Reads the scales of the whole weight, and the codes of those tiles of which the scales alone do not tell.
    static func obstacle(_ repacking: any Repacking, _ weight: Weight, in checkpoint: Checkpoint) throws -> String? {
        let shape = weight.shape
        let parts = weight.parts
        let unit = leastCommonMultiple(repacking.source.rowAlignment, repacking.target.rowAlignment)
        let rowsAtOnce = max(1, (4 << 20) / max(1, shape.columns * unit)) * unit
        for rows in TileSequence(of: shape, step: max(rowsAtOnce, repacking.source.preferredRows)) {
            func reason(withCodes: Bool) throws -> String? {
                // Codes that were never written are zeros, which fit whatever their scales.
                if withCodes, isHole(weight.stored[0], parts[0].runs(of: rows, in: shape), in: checkpoint) { return nil }
                let runs = parts.enumerated().map { index, part in index == 0 && !withCodes ? ByteRuns(0..<0) : part.runs(of: rows, in: shape) }
                let memory = try AlignedBuffer(byteCount: runs.reduce(0) { $0 + PartLayout.aligned($1.byteCount) })
                // The slices point into the buffer, which must live until they have been looked at.
                return try withExtendedLifetime(memory) {
                    var start = 0
                    let slices = try runs.enumerated().map { index, runs in
                        let slice = memory.slice(start..<start + runs.byteCount)
                        start += PartLayout.aligned(runs.byteCount)
                        if runs.byteCount > 0 { try checkpoint.read(weight.stored[index], runs, into: slice) }
                        return UnsafeRawBufferPointer(slice)
                    }
                    if !repacking.needsCodes || withCodes { return repacking.obstacle(slices, rows: rows, shape: shape) }
                    return repacking.isProvenByScales(slices, rows: rows, shape: shape) ? nil : try reason(withCodes: true)
                }
            }
            if let found = try reason(withCodes: false) { return found }
        }
        return nil
    }

    /// Whether part of a stored tensor is a hole of its file.
    private static func isHole(_ tensor: StoredTensor, _ runs: ByteRuns, in checkpoint: Checkpoint) -> Bool {
        guard runs.count == 1,
            let place = checkpoint.files[tensor.file].stored(runs.length, at: tensor.offset + runs.start), place.count == runs.length
        else { return false }
        return place.file.isHole(place.offset..<place.offset + place.count)
    }
}
