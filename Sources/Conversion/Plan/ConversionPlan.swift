import Checkpoints
import Formats
import Quantization
import StrictJSON
import Tensors

/// Which way a weight goes from source to target, the most exact there is.
public enum Road: String, Sendable, Equatable, CaseIterable {
    /// The stored bytes are copied.
    case passthrough
    /// The same codes and scales in another order or under other names.
    case repack
    /// Codes and scales to numbers, bit-identical with the format's reference implementation.
    case dequantize
    /// Numbers to codes and scales, bit-identical with the peer's encoder.
    case quantize
    /// One dense type to another, every value rounded once: a declared dtype change.
    case cast
    /// A norm's values divided by powers of two that the weights after it were multiplied by before they were quantized: exact.
    case fold
}

/// A stored tensor of the output with its final place.
public struct PlannedTensor: Sendable, Equatable {
    public var name: String
    public var type: ScalarType
    public var shape: [Int]
    /// First byte in its shard.
    public var offset: Int
    public var byteCount: Int
}

/// One weight's way into the output.
public struct PlannedWeight: Sendable {
    /// Index among the source checkpoint's weights.
    public var source: Int
    public var road: Road
    /// The target's layout; nil for opaque tensors.
    public var layout: (any WeightLayout)?
    public var reason: String
    public var shard: Int
    /// The output's tensors, or this weight's part of tensors that hold a stack of weights.
    public var tensors: [PlannedTensor]
    /// The module's name in the output.
    public var module: String
    /// The exact way that was proven, where codes and scales are put into another order.
    public var repacking: (any Repacking)?
    /// The part of the source weight that this is; nil for all of it.
    public var view: WeightView?
    /// Which of the source's stored tensors are carried, where the bytes pass through and lie in several files; nil for all.
    public var carried: [Int]?
    /// The part of every stored tensor that is copied, where the bytes pass through; nil for all of it.
    public var split: TensorSplit?
    /// The place among stacked matrices, if the output's tensors are stacks.
    public var stackIndex: Int?
    /// Weights of the source whose values share one range with this one's, for layouts that need the range beforehand.
    public var rangeSources: [Int] = []
    /// How codes and scales are chosen, where they are.
    public var quantizer: QuantizerName = .rtn

    /// Whether codes and scales are chosen with the help of inputs.
    public var isCalibrated: Bool { road == .quantize && quantizer.needs == .hessian && view == nil }

    /// Whether this is the weight itself, not scales of it that go into another file.
    public var isPrincipal: Bool { carried.map { $0.first == 0 } ?? true }

    /// The stored tensors of `weight` that the planned ones are made of, where bytes pass through.
    func passed(of weight: Weight) -> [StoredTensor] { carried.map { $0.map { weight.stored[$0] } } ?? weight.stored }
}

/// One output file: its name, its complete header and its size are known before anything is written. Where the container is
/// another than safetensors, that file is packed when it is complete.
public struct PlannedShard: Sendable, Equatable {
    public var name: String
    public var header: [UInt8]
    /// Of the safetensors file.
    public var size: Int
    /// The source file that this one is a copy of, header included.
    public var copiedFile: Int?
    /// How many tensors the header names.
    public var tensorCount: Int
    /// Positions in ``ConversionPlan/weights``.
    public var weights: Range<Int>
}

/// Every output file and byte range of a conversion: a pure value, complete before the first byte is written.
///
/// Shards are independent: a run may carry out any subset of them, on any machine that sees source and destination.
public struct ConversionPlan: Sendable {
    public var targetName: String
    public var recipe: Recipe
    /// Of weights for which the recipe names none, and what it learns from.
    public var quantizer: QuantizerName
    public var evidence: String
    public var output: OutputOptions
    /// In the order of shards, and of the source inside a shard.
    public var weights: [PlannedWeight]
    public var shards: [PlannedShard]
    /// Small files that are written at the end: index, config.json.
    public var texts: [(name: String, bytes: [UInt8])]
    /// Files that are copied as they are.
    public var sideFiles: [Checkpoint.SideFile]
    /// What a user should know: exceptions, odd ranges, missing layers.
    public var notes: [Finding]
    /// What a user must know before relying on the output: not hidden by `--quiet`.
    public var warnings: [Finding] = []
    /// Identifies source, recipe and every output byte range.
    public var fingerprint: String
    public var source: SourceFingerprint

    /// Whether every tensor is copied as it is stored.
    public var isCopy: Bool { targetName == LayoutChoice.keepName && recipe.rules.isEmpty }

    /// Positions of weights that take more than their own values: they are written by a ``CalibrationStage``.
    public var calibrated: [Int] {
        weights.indices.filter { weights[$0].isCalibrated }
    }

    public var outputBytes: Int { shards.reduce(0) { $0 + $1.size } }

    /// Room that a run takes besides the shards: other files, and where shards are packed into another container the safetensors files that they
    /// are packed from, as many as are in flight at once.
    func spaceBeside(workers: Int) -> Int {
        let others = sideFiles.reduce(0) { $0 + $1.range.count } + texts.reduce(0) { $0 + $1.bytes.count } + weights.count * 512
        guard output.container.pack != nil else { return others }
        let staged = shards.filter { $0.copiedFile == nil }.map(\.size).sorted(by: >)
        return others + staged.prefix(workers + 1).reduce(0, +)
    }

    /// Room that a run takes from its beginning to its end.
    public func spaceNeeded(workers: Int) -> Int { outputBytes + spaceBeside(workers: workers) }
}

/// How the output is cut and stored.
public struct OutputOptions: Sendable {
    public var container: any Container.Type
    /// Cut the output into shards of at most this many bytes of data (a larger weight gets a shard of its own); nil keeps the source's
    /// cuts, or 5 GB where weights are stacked.
    public var shardSize: Int?
    /// Everything in one file that is the destination itself, `config.json` included.
    public var isSingleFile: Bool
    /// Zstd archives: leave bytes in their order, so that `zstd -d` restores the files.
    public var keepsByteOrder: Bool
    /// HDF5: how chunks are compressed.
    public var filter: HDF5Filter

    public init(
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
public struct SourceFingerprint: Sendable, Equatable {
    public struct File: Sendable, Equatable {
        public var name: String
        public var size: Int
        public var headerDigest: String
    }
    public var files: [File]
    public var configDigest: String
}
