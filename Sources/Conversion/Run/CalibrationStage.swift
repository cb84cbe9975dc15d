import Crypto
import Formats
import Runtime
import Tensors

/// Writes the weights that take more than their own values, layer by layer, before a run writes all others.
package protocol CalibrationStage: Sendable {
    /// Refuses what cannot be carried out, before anything is written.
    func check(_ plan: ConversionPlan, _ options: RunOptions) throws

    /// Goes on where `output` says that an earlier run was stopped.
    func run(into output: CalibrationOutput, stop: StopToken) throws
}

/// Where a ``CalibrationStage`` puts its weights, and what it had finished before.
package struct CalibrationOutput {
    let work: RunWork
    let statePath: String
    package let options: RunOptions

    package var plan: ConversionPlan { work.run.plan }

    /// Writes one weight, the layout's parts complete.
    package func write(_ position: Int, _ parts: [AlignedBuffer]) throws {
        let planned = plan.weights[position]
        var digests: [String] = []
        for (tensor, part) in zip(planned.tensors, parts) {
            let bytes = UnsafeRawBufferPointer(part.slice(0..<tensor.byteCount))
            try work.shardFile(planned.shard).write(bytes, at: tensor.offset)
            var hash = SHA256()
            hash.update(bufferPointer: bytes)
            digests.append(hash.finalize().hexadecimal)
        }
        try work.journal.calibrated(position, digests)
        work.noteCalibrated(position, digests)
    }

    /// Keeps what is needed to go on after an interruption. Everything written so far is safe by then.
    package func save(_ write: (PositionedFile) throws -> Void) throws {
        try work.synchronizeShards()
        try work.journal.synchronize()
        try FileTree.write(to: statePath, write)
    }

    /// What an interrupted run had kept last.
    package func saved() throws -> PositionedFile? {
        try FileTree.entry(statePath) == nil ? nil : try PositionedFile.openForReading(statePath)
    }
}
