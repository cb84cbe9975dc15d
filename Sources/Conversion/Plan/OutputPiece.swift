import Checkpoints
import Formats
import Tensors

/// The part of a source weight that becomes a matrix of its own in another dialect.
public struct WeightView: Sendable, Equatable {
    /// Rows and columns of the source weight.
    public var rows: Range<Int>
    public var columns: Range<Int>
    public var isTransposed: Bool
    /// `[rows, columns]` of the piece.
    public var shape: MatrixShape

    init(rows: Range<Int>, of weight: Weight, isTransposed: Bool) {
        self.rows = rows
        self.isTransposed = isTransposed
        columns = 0..<weight.shape.columns
        shape = isTransposed ? MatrixShape(rows: columns.count, columns: rows.count) : MatrixShape(rows: rows.count, columns: columns.count)
    }

    /// The part of a weight that one of several ranks has.
    init(_ split: TensorSplit, of weight: Weight) {
        isTransposed = false
        let whole = weight.shape
        rows = split.axis == 0 ? split.range(of: whole.rows) : 0..<whole.rows
        columns = split.axis == 1 ? split.range(of: whole.columns) : 0..<whole.columns
        shape = MatrixShape(rows: rows.count, columns: columns.count)
    }
}

/// One of `count` equal parts of a tensor along `axis`.
public struct TensorSplit: Sendable, Equatable {
    public var axis: Int
    public var index: Int
    public var count: Int

    public func range(of size: Int) -> Range<Int> { size / count * index..<size / count * (index + 1) }

    /// The dimensions of the part.
    func dimensions(_ whole: [Int]) -> [Int] {
        var part = whole
        part[axis] /= count
        return part
    }

    /// Where the part's bytes lie in a tensor of these dimensions.
    func runs(in dimensions: [Int], byteCount: Int) -> ByteRuns {
        let outer = dimensions[..<axis].reduce(1, *)
        let stride = outer == 0 ? 0 : byteCount / outer
        return ByteRuns(start: stride / count * index, length: stride / count, stride: stride, count: outer)
    }
}

/// What a source weight becomes in a dialect: itself, or one matrix of a stack.
struct OutputPiece {
    /// The module's name in the output.
    var module: String
    /// Nil for the whole weight.
    var view: WeightView?
    /// Place in the stack, and how many matrices are stacked; nil for a matrix of its own.
    var stack: (index: Int, count: Int)?
    /// Which equal part of the weight it is; nil for all of it.
    var split: TensorSplit?
    /// Which file, where the dialect decides.
    var rank: Int?
}

extension Dialect {
    /// The pieces of a weight; none if the dialect's readers have no use for it.
    func pieces(of weight: Weight, _ model: DialectModel) throws -> [OutputPiece] {
        switch self {
        case .huggingFace: [OutputPiece(module: String(weight.module))]
        case .mlx: mlxPieces(of: weight, model)
        case .deepSeek(let ranks): try deepSeekPieces(of: weight, model, ranks)
        }
    }

    private func deepSeekPieces(of weight: Weight, _ model: DialectModel, _ ranks: Int) throws -> [OutputPiece] {
        if let layer = WeightName.layer(weight.name), layer >= model.layers { return [] }
        if weight.name.hasSuffix("rotary_emb.inv_freq") { return [] }
        guard let place = DeepSeekShards.name(of: weight.name) else {
            throw ConversionFailure.usage("\(weight.name): DeepSeek's inference code has no place for this tensor")
        }
        let module = String(weight.module)
        if WeightName.isRoutedExpert(weight.name) {
            let words = module.split(separator: ".")
            guard model.experts > 0, model.experts % ranks == 0, let at = words.firstIndex(of: "experts"), at + 1 < words.count,
                let expert = Int(words[at + 1]), expert < model.experts
            else {
                throw ConversionFailure.usage(
                    "\(weight.name): \(model.experts) experts (n_routed_experts) cannot be dealt to \(ranks) ranks; give a --model-parallel that divides them"
                )
            }
            return [OutputPiece(module: module, rank: DeepSeekShards.rank(ofExpert: expert, count: model.experts, ranks: ranks))]
        }
        return (0..<ranks).map { rank in
            let isWhole = place.division == .whole || ranks == 1
            return OutputPiece(
                module: module, split: isWhole ? nil : TensorSplit(axis: place.division == .rows ? 0 : 1, index: rank, count: ranks), rank: rank)
        }
    }

    private func mlxPieces(of weight: Weight, _ model: DialectModel) -> [OutputPiece] {
        let module = String(weight.module)
        if let layer = WeightName.layer(weight.name), layer >= model.layers { return [] }
        if weight.name.hasSuffix("rotary_emb.inv_freq") { return [] }
        if module.hasSuffix(".self_attn.kv_b_proj"), weight.dimensions.count == 2, model.heads > 0,
            weight.dimensions[0] == model.heads * (model.nope + model.value)
        {
            // mlx_lm/models/deepseek_v3.py: the key part of each head transposed, the value part as it is.
            let parent = module.dropLast("kv_b_proj".count)
            return (0..<model.heads).flatMap { head in
                let start = head * (model.nope + model.value)
                let middle = start + model.nope
                return [
                    OutputPiece(
                        module: parent + "embed_q", view: WeightView(rows: start..<middle, of: weight, isTransposed: true), stack: (head, model.heads)
                    ),
                    OutputPiece(
                        module: parent + "unembed_out", view: WeightView(rows: middle..<middle + model.value, of: weight, isTransposed: false),
                        stack: (head, model.heads)),
                ]
            }
        }
        let words = module.split(separator: ".")
        if let place = words.firstIndex(of: "experts"), place > 0, place + 2 < words.count, words[place - 1] == "mlp",
            let expert = Int(words[place + 1]), expert >= 0,
            model.experts > 0
        {
            let stacked = (words[..<place] + ["switch_mlp"] + words[(place + 2)...]).joined(separator: ".")
            return [OutputPiece(module: stacked, stack: (expert, model.experts))]
        }
        return [OutputPiece(module: module)]
    }
}

/// What a dialect must know of the model, from `config.json`.
struct DialectModel {
    var layers: Int
    var experts: Int
    var heads: Int
    var nope: Int
    var value: Int

    init(_ checkpoint: Checkpoint) {
        let config = checkpoint.languageConfig
        func field(_ name: String) -> Int { config[name]?.int.flatMap { $0 > 0 && $0 < 1 << 24 ? $0 : nil } ?? 0 }
        // A number of layers that is none leaves no layer out.
        let count = field("num_hidden_layers")
        layers = count > 0 ? count : Int.max
        experts = field("n_routed_experts")
        (heads, nope, value) = (field("num_attention_heads"), field("qk_nope_head_dim"), field("v_head_dim"))
    }
}
