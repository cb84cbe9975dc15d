import Checkpoints
import Formats
import Tensors

/// The part of a source weight that becomes a matrix of its own in another dialect.
public struct WeightView: Sendable, Equatable {
    /// Rows of the source weight.
    public var rows: Range<Int>
    public var isTransposed: Bool
    /// `[rows, columns]` of the piece.
    public var shape: MatrixShape

    init(rows: Range<Int>, of weight: Weight, isTransposed: Bool) {
        self.rows = rows
        self.isTransposed = isTransposed
        let columns = weight.shape.columns
        shape = isTransposed ? MatrixShape(rows: columns, columns: rows.count) : MatrixShape(rows: rows.count, columns: columns)
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
}

extension Dialect {
    /// The pieces of a weight; none if the dialect's readers have no use for it.
    func pieces(of weight: Weight, _ model: DialectModel) -> [OutputPiece] {
        let module = String(weight.module)
        guard self == .mlx else { return [OutputPiece(module: module)] }
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
        if let place = words.firstIndex(of: "experts"), place + 2 < words.count, words[place - 1] == "mlp", let expert = Int(words[place + 1]) {
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
        func field(_ name: String) -> Int { checkpoint.config[name]?.int.flatMap { $0 > 0 && $0 < 1 << 24 ? $0 : nil } ?? 0 }
        layers = checkpoint.config["num_hidden_layers"] == nil ? Int.max : field("num_hidden_layers")
        experts = field("n_routed_experts")
        (heads, nope, value) = (field("num_attention_heads"), field("qk_nope_head_dim"), field("v_head_dim"))
    }
}
