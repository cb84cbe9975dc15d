import Checkpoints
import Formats
import Quantization
import StrictJSON
import Tensors

/// A stored tensor of the output with its final place.
package struct PlannedTensor: Sendable, Equatable {
    package var name: String
    package var type: ScalarType
    package var shape: [Int]
    /// First byte in its shard.
    package var offset: Int
    package var byteCount: Int
}

/// What one weight of the source becomes in the output.
package struct PlannedWeight: Sendable {
    /// Index among the source checkpoint's weights.
    package var source: Int
    package var way: Way
    /// The target's layout; nil for opaque tensors.
    package var layout: (any WeightLayout)?
    package var reason: String
    package var shard = 0
    /// The output's tensors, or this weight's part of tensors that hold a stack of weights.
    package var tensors: [PlannedTensor] = []
    /// The module's name in the output.
    package var module: String
    /// The part of the source weight that this is; nil for all of it.
    package var view: WeightView?
    /// The place among stacked matrices, if the output's tensors are stacks.
    package var stackIndex: Int?

    package var road: Road { way.road }

    /// How codes and scales are chosen, where they are.
    package var quantizer: QuantizerName { if case .quantize(let quantizer, _) = way { quantizer } else { .rtn } }

    /// Weights of the source whose values share one range with this one's.
    var rangeSources: [Int] { if case .quantize(_, let range) = way { range } else { [] } }

    /// The source's files that it is made of; some more than once.
    func sourceFiles(in checkpoint: Checkpoint) -> [Int] {
        ([source] + rangeSources).flatMap { checkpoint.weights[$0].stored.map(\.file) }
    }

    /// Which of the source's stored tensors are copied; nil for all.
    var copied: [Int]? { if case .copy(let tensors, _) = way { tensors } else { nil } }

    /// The part of every stored tensor that is copied; nil for all of it.
    package var split: TensorSplit? { if case .copy(_, let split) = way { split } else { nil } }

    /// Whether codes and scales are chosen with the help of inputs.
    package var isCalibrated: Bool { quantizer.needs == .hessian && view == nil }

    /// Whether this is the weight itself, not scales of it that go into another file.
    package var isPrincipal: Bool { copied.map { $0.first == 0 } ?? true }

    /// The stored tensors of `weight` that the planned ones are made of, where bytes are copied.
    func passed(of weight: Weight) -> [StoredTensor] { copied.map { $0.map { weight.stored[$0] } } ?? weight.stored }
}

/// One output file: its name, its size and all but its tensors' bytes are known before anything is written. Where the container gives tensors
/// no places beforehand, this is a safetensors file, which is packed when it is complete.
package struct PlannedShard: Sendable, Equatable {
    package var name: String
    package var pieces: [FileArrangement.Piece]
    /// Of the file that ``pieces`` belong to.
    package var size: Int
    /// The source file that this one is a copy of, header included.
    package var copiedFile: Int?
    /// How many tensors the file names.
    package var tensorCount: Int
    /// Positions in ``ConversionPlan/weights``.
    package var weights: Range<Int>
}

/// Every output file and byte range of a conversion: a pure value, complete before the first byte is written.
///
/// Shards are independent: a run may carry out any subset of them, on any machine that sees source and destination.
package struct ConversionPlan: Sendable {
    package var targetName: String
    package var recipe: Recipe
    /// Of weights for which the recipe names none, and what it learns from.
    package var quantizer: QuantizerName
    package var evidence: String
    package var output: OutputOptions
    /// In the order of shards, and of the source inside a shard.
    package var weights: [PlannedWeight]
    package var shards: [PlannedShard]
    /// Small files that are written at the end: index, config.json.
    package var texts: [(name: String, bytes: [UInt8])]
    /// Files that are copied as they are.
    package var sideFiles: [Checkpoint.SideFile]
    /// What a user should know: exceptions, odd ranges, missing layers.
    package var notes: [Finding]
    /// What a user must know before relying on the output: not hidden by `--quiet`.
    package var warnings: [Finding] = []
    /// Identifies source, recipe and every output byte range.
    package var fingerprint: String
    package var source: SourceFingerprint

    /// Whether every tensor is copied as it is stored.
    package var isCopy: Bool { targetName == LayoutChoice.keepName && recipe.rules.isEmpty }

    /// Positions of weights that take more than their own values: they are written by a ``CalibrationStage``.
    package var calibrated: [Int] {
        weights.indices.filter { weights[$0].isCalibrated }
    }

    package var outputBytes: Int { shards.reduce(0) { $0 + $1.size } }

    /// Room that a run takes besides the shards: other files, and where shards are packed into another container the safetensors files that they
    /// are packed from, as many as are in flight at once.
    func spaceBeside(workers: Int) -> Int {
        let others = sideFiles.reduce(0) { $0 + $1.range.count } + texts.reduce(0) { $0 + $1.bytes.count } + weights.count * 512
        guard output.container is any PackedContainer.Type else { return others }
        let staged = shards.filter { $0.copiedFile == nil }.map(\.size).sorted(by: >)
        return others + staged.prefix(workers + 1).reduce(0, +)
    }

    /// Room that a run takes from its beginning to its end.
    package func spaceNeeded(workers: Int) -> Int { outputBytes + spaceBeside(workers: workers) }
}

/// How the output is cut and stored.
package struct OutputOptions: Sendable {
    package var container: any Container.Type
    /// Cut the output into shards of at most this many bytes of data (a larger weight gets a shard of its own); nil keeps the source's
    /// cuts, or 5 GB where weights are stacked.
    package var shardSize: Int?
    /// Everything in one file that is the destination itself, `config.json` included.
    package var isSingleFile: Bool
    /// Zstd archives: leave bytes in their order, so that `zstd -d` restores the files.
    package var keepsByteOrder: Bool
    /// HDF5: how chunks are compressed.
    package var filter: HDF5Filter

    package init(
        container: any Container.Type = Safetensors.self, shardSize: Int? = nil, isSingleFile: Bool = false, keepsByteOrder: Bool = false,
        filter: HDF5Filter = .zstd
    ) {
        self.container = container
        self.shardSize = shardSize
        self.isSingleFile = isSingleFile
        self.keepsByteOrder = keepsByteOrder
        self.filter = filter
    }

    /// What decides about bytes, in words for the plan's fingerprint.
    var summary: String {
        var words = [container.name]
        if isSingleFile { words.append("single file") }
        if container == ZstdArchive.self, keepsByteOrder { words.append("bytes in order") }
        if container == HDF5.self { words.append(filter.rawValue) }
        return words.joined(separator: ", ")
    }
}

/// What identifies a source without reading 700 GB: the names and sizes of its files and the digests of their headers.
package struct SourceFingerprint: Sendable, Equatable {
    package struct File: Sendable, Equatable {
        package var name: String
        package var size: Int
        package var headerDigest: String
    }
    package var files: [File]
    package var configDigest: String
}
