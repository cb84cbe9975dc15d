import Architectures
import StrictJSON
import Tensors

/// ml-explore/mlx-lm: experts stacked as `switch_mlp`, `kv_b_proj` split by head into `embed_q` and `unembed_out`, no multi-token-prediction module.
///
/// Source: mlx_lm/models/deepseek_v3.py and qwen3_moe.py (`sanitize`).
package struct MLX: StackedDialect {
    package init() {}

    package var name: String { "MLX" }
    package var readers: String { "mlx-lm" }
    package var format: String { "mlx" }

    /// What the two parts of a latent's projection are called: the keys' part of each head transposed, the values' part as it is.
    package static let halves = ["embed_q", "unembed_out"]

    /// mlx-lm quantizes every linear and every embedding; its router gate is neither.
    package func exemption(of module: String, dimensions: [Int], roles: ModelRoles, from layout: (any WeightLayout)?) -> ModelRoles.Exemption? {
        if roles.place(of: module)?.role == .router { return .init(reason: "router gate", isImplied: true) }
        return dimensions.count == 2 ? nil : .init(reason: "not a matrix", isImplied: true)
    }

    package func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece] {
        let module = weight.module
        if model.isBeyondLayers(weight.name) { return [] }
        if model.roles.place(of: module)?.role == .keyValueUp, weight.dimensions.count == 2, model.heads > 0,
            weight.dimensions[0] == model.heads * (model.nope + model.value)
        {
            let parent = WeightName.module(module) + "."
            return (0..<model.heads).flatMap { head in
                let start = head * (model.nope + model.value)
                let middle = start + model.nope
                return [
                    StoredPiece(
                        module: parent + Self.halves[0], view: WeightView(rows: start..<middle, of: weight.shape, isTransposed: true),
                        stack: (head, model.heads)),
                    StoredPiece(
                        module: parent + Self.halves[1],
                        view: WeightView(rows: middle..<middle + model.value, of: weight.shape, isTransposed: false), stack: (head, model.heads)),
                ]
            }
        }
        if model.joinedExperts != nil, let expert = model.roles.architecture?.place(of: module)?.expert {
            return try Self.stackedHalves(of: weight, expert, in: model)
        }
        let words = module.split(separator: ".")
        let known = model.roles.architecture?.place(of: module)?.role
        if let place = words.firstIndex(of: "experts"), place > 0, place + 2 < words.count, words[place - 1] == "mlp" || known != nil,
            let expert = Int(words[place + 1]), expert >= 0, model.experts > 0
        {
            let name = known.flatMap { Self.expertNames[$0] }.map { [$0[...]] } ?? words[(place + 2)...]
            let stacked = (words[..<place] + ["switch_mlp"] + name).joined(separator: ".")
            return [StoredPiece(module: stacked, stack: (expert, model.experts))]
        }
        return [StoredPiece(module: module)]
    }

    /// What it calls the matrices of an expert, whatever the release calls them.
    private static let expertNames: [ModuleRole: String] = [.expertGate: "gate_proj", .expertUp: "up_proj", .expertDown: "down_proj"]

    /// gpt-oss's experts keep the name of what holds them, and have gate and up apart (mlx_lm/models/gpt_oss.py, `sanitize`).
    private static func stackedHalves(of weight: LogicalTensor, _ expert: Int, in model: DialectModel) throws(DialectFailure) -> [StoredPiece] {
        guard model.experts > 0 else {
            throw DialectFailure(tensor: weight.name, reason: "belongs into a stack, and config.json gives no number of experts")
        }
        let words = weight.module.split(separator: ".")
        let parent = words.dropLast(2).joined(separator: ".") + "."
        if words.last == "gate_up_proj" {
            return GptOssExperts.halves(of: weight).map { half in
                StoredPiece(module: parent + WeightName.leaf(half.module), view: half.view, stack: (expert, model.experts))
            }
        }
        return [StoredPiece(module: parent + words[words.count - 1], stack: (expert, model.experts))]
    }

    // MARK: Back

    /// More experts than any model has.
    private static let stackLimit = 1 << 16

    /// Every `switch_mlp` tensor as the tensors of its experts, each a slice of the stored bytes.
    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        // gpt-oss's stacks are told from an expert's own matrices by what follows: no number.
        let marker = GptOssExperts.isModel(config) ? ".mlp.experts." : ".switch_mlp."
        guard tensors.contains(where: { $0.name.range(of: marker) != nil }) else { return tensors }
        // Back to what the release calls them.
        let architecture = Architecture.named(config["model_type"]?.string)
        let released = expertNames.reduce(into: [String: String]()) { names, entry in
            names[entry.value] = architecture?.module(entry.key, layer: 0, expert: 0).map { WeightName.leaf($0) }.map(String.init)
        }
        return tensors.flatMap { tensor -> [StoredTensor] in
            guard let place = tensor.name.range(of: marker), tensor.shape.count >= 2, tensor.byteCount > 0,
                (1...stackLimit).contains(tensor.shape[0]), tensor.byteCount % tensor.shape[0] == 0,
                marker == ".switch_mlp." || Self.isStackedHalf(tensor.name[place.upperBound...])
            else { return [tensor] }
            let count = tensor.shape[0]
            let size = tensor.byteCount / count
            let rest = tensor.name[place.upperBound...]
            let matrix = rest.prefix { $0 != "." }
            let name = (marker == ".switch_mlp." ? released[String(matrix)] : nil).map { $0 + rest.dropFirst(matrix.count) } ?? String(rest)
            return (0..<count).map { expert in
                var slice = tensor
                slice.name = tensor.name[..<place.lowerBound] + (marker == ".switch_mlp." ? ".experts." : marker) + "\(expert)." + name
                slice.shape.removeFirst()
                slice.offset += expert * size
                slice.byteCount = size
                return slice
            }
        }
    }

    /// Whether a name goes on as one of gpt-oss's stacks of MLX.
    private static func isStackedHalf(_ rest: Substring) -> Bool {
        let words = rest.split(separator: ".")
        return words.count == 2 && ["gate_proj", "up_proj", "down_proj"].contains(words[0])
    }

    /// `kv_b_proj` out of `embed_q` and `unembed_out`; nil if the tensors are not those of a split projection.
    package static func latentProjection(
        _ parent: String, _ members: [StoredTensor], quantization: QuantizationConfig?, read: @escaping (StoredTensor) throws -> [UInt8]
    ) throws -> (name: String, dimensions: [Int], layout: any WeightLayout, stored: [StoredTensor])? {
        func half(_ name: String) throws -> (layout: any WeightLayout, stored: [StoredTensor], heads: Int, rows: Int, columns: Int)? {
            let module = parent + "." + name
            let mine = members.filter { WeightName.module($0.name) == module }
            guard let first = mine.first(where: { WeightName.leaf($0.name) == "weight" }),
                mine.allSatisfy({ $0.shape.count == 3 && !$0.shape.contains(0) })
            else { return nil }
            let flat = mine.map { tensor -> (leaf: String, tensor: StoredTensor) in
                var flat = tensor
                flat.shape = [tensor.shape[0] * tensor.shape[1], tensor.shape[2]]
                return (String(WeightName.leaf(tensor.name)), flat)
            }
            let (heads, rows) = (first.shape[0], first.shape[1])
            if mine.count == 1 {
                let layout: (any WeightLayout)? = first.type.isDenseFloat ? DenseLayout(first.type) : GGMLBlockLayout(first.type)
                return layout.map { ($0, [first], heads, rows, first.shape[2]) }
            }
            let tensors = ModuleTensors(module: module, tensors: flat, read: read)
            for family in LayoutRegistry.families {
                guard let found = try family.recognise(tensors, config: quantization) else { continue }
                let stored = found.layout.parts(of: MatrixShape(found.dimensions)).compactMap { part in
                    mine.first { WeightName.leaf($0.name) == part.leaf && $0.type == part.type }
                }
                return (found.layout, stored, heads, rows, found.dimensions[1])
            }
            return nil
        }
        guard let keys = try half(Self.halves[0]), let values = try half(Self.halves[1]), keys.heads == values.heads, keys.rows == values.columns,
            keys.layout.rowAlignment == 1, values.layout.rowAlignment == 1
        else { return nil }
        let layout = LatentSplitLayout(nope: keys.columns, value: values.rows, keys: keys.layout, values: values.layout)
        let dimensions = [keys.heads * (keys.columns + values.rows), keys.rows]
        let stored = keys.stored + values.stored
        let parts = layout.parts(of: MatrixShape(dimensions))
        guard parts.count == stored.count,
            zip(parts, stored).allSatisfy({ $0.type == $1.type && $0.shape == $1.shape && $0.byteCount == $1.byteCount })
        else { return nil }
        return (parent + ".kv_b_proj.weight", dimensions, layout, stored)
    }
}

extension Dialect where Self == MLX {
    package static var mlx: MLX { MLX() }
}
