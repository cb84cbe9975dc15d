import Architectures
import Tensors

/// The names and cuts of DeepSeek's inference code: `model{i}-mp{N}.safetensors`, one file a rank, no multi-token-prediction module
/// (deepseek-ai/DeepSeek-V3:inference/convert.py).
package struct DeepSeekRanks: Dialect {
    /// How many ranks the weights are divided among.
    package let count: Int

    package init(_ count: Int) { self.count = count }

    package var name: String { "DeepSeek's inference code" }
    package var readers: String { "DeepSeek's inference code" }
    package var ranks: Int? { count }

    /// How a weight is divided among ranks.
    package enum Division: Sendable, Equatable {
        case rows, columns
        /// The same on every rank, or on the one that has the expert.
        case whole
    }

    /// DeepSeek's name of a module, and how it is divided. V3.2's indexer has the same names in both, and every rank has all of it
    /// (deepseek-ai/DeepSeek-V3.2-Exp:inference/convert.py).
    private static let modules: [ModuleRole: (name: String, division: Division)] = [
        .embedding: ("embed", .rows), .finalNorm: ("norm", .whole), .head: ("head", .rows),
        .inputNorm: ("layers.#.attn_norm", .whole), .postAttentionNorm: ("layers.#.ffn_norm", .whole),
        .query: ("layers.#.attn.wq", .rows), .queryDown: ("layers.#.attn.wq_a", .whole), .queryLatentNorm: ("layers.#.attn.q_norm", .whole),
        .queryUp: ("layers.#.attn.wq_b", .rows), .keyValueDown: ("layers.#.attn.wkv_a", .whole),
        .keyValueNorm: ("layers.#.attn.kv_norm", .whole), .keyValueUp: ("layers.#.attn.wkv_b", .rows), .output: ("layers.#.attn.wo", .columns),
        .indexerQuery: ("layers.#.attn.indexer.wq_b", .whole), .indexerKey: ("layers.#.attn.indexer.wk", .whole),
        .indexerKeyNorm: ("layers.#.attn.indexer.k_norm", .whole), .indexerHeadWeights: ("layers.#.attn.indexer.weights_proj", .whole),
        .router: ("layers.#.ffn.gate", .whole),
        .gate: ("layers.#.ffn.w1", .rows), .down: ("layers.#.ffn.w2", .columns), .up: ("layers.#.ffn.w3", .rows),
        .expertGate: ("layers.#.ffn.experts.#.w1", .whole), .expertDown: ("layers.#.ffn.experts.#.w2", .whole),
        .expertUp: ("layers.#.ffn.experts.#.w3", .whole),
        .sharedGate: ("layers.#.ffn.shared_experts.w1", .rows), .sharedDown: ("layers.#.ffn.shared_experts.w2", .columns),
        .sharedUp: ("layers.#.ffn.shared_experts.w3", .rows),
    ]
    private static let table = NameTable(modules.mapValues(\.name))
    private static let family = Architecture.deepSeek
    /// What a module's tensors are called, canonically and here.
    private static let leaves = [("weight_scale_inv", "scale"), ("e_score_correction_bias", "bias")]

    // MARK: To ranks

    /// DeepSeek's name of a tensor and how it is divided; nil for tensors that the inference code has no place for.
    package static func name(of tensor: String) -> (name: String, division: Division)? {
        guard let place = family.place(of: WeightName.module(tensor)), let module = table.module(place), let entry = modules[place.role] else {
            return nil
        }
        let leaf = WeightName.leaf(tensor)
        return (module + "." + (leaves.first { $0.0 == leaf }?.1 ?? String(leaf)), entry.division)
    }

    /// The rank that has routed expert `index` of `count`.
    package static func rank(ofExpert index: Int, count: Int, ranks: Int) -> Int { index / (count / ranks) }

    package func storedName(of tensor: String, isStacked: Bool) -> String { Self.name(of: tensor)?.name ?? tensor }

    package func fileName(_ number: Int, of count: Int) -> String? { Self.fileName(rank: number, of: self.count) }

    package static func fileName(rank: Int, of ranks: Int) -> String { "model\(rank)-mp\(ranks).safetensors" }

    /// Kernels for BF16 and FP8 blocks are all that the inference code has.
    package func obstacle(to layout: any WeightLayout) -> String? {
        layout.isDense || layout is any ScaledBlockLayout
            ? nil : "DeepSeek's inference code reads BF16 and FP8 blocks, not \(layout.name); give --to bf16 or fp8-block"
    }

    package func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece] {
        if model.isBeyondLayers(weight.name) { return [] }
        guard let (_, division) = Self.name(of: weight.name), let place = Self.family.place(of: weight.module) else {
            throw DialectFailure(tensor: weight.name, reason: "DeepSeek's inference code has no place for this tensor")
        }
        if ModuleRole.routedExpert.contains(place.role) {
            guard model.experts > 0, model.experts % count == 0, let expert = place.expert, expert < model.experts else {
                throw DialectFailure(
                    tensor: weight.name,
                    reason:
                        "\(model.experts) experts (n_routed_experts) cannot be dealt to \(count) ranks; give a --model-parallel that divides them")
            }
            return [StoredPiece(module: weight.module, rank: Self.rank(ofExpert: expert, count: model.experts, ranks: count))]
        }
        return (0..<count).map { rank in
            let isWhole = division == .whole || count == 1
            return StoredPiece(
                module: weight.module, split: isWhole ? nil : TensorSplit(axis: division == .rows ? 0 : 1, index: rank, count: count), rank: rank)
        }
    }

    // MARK: Back

    /// How many ranks these files are the shards of; nil if they are not such shards, or not all of them.
    package static func ranks(of names: [String]) -> Int? {
        let count = names.count
        return Set(names) == Set((0..<count).map { fileName(rank: $0, of: count) }) ? count : nil
    }

    /// The rank of a file name among `ranks`.
    package static func rank(of name: String, _ ranks: Int) -> Int? { (0..<ranks).first { fileName(rank: $0, of: ranks) == name } }

    /// The canonical name of a tensor and how it was divided; nil for names that are not DeepSeek's.
    package static func canonicalName(of tensor: String) -> (name: String, division: Division)? {
        guard let place = table.place(of: WeightName.module(tensor)), let entry = modules[place.role],
            let module = family.module(place.role, layer: place.layer, expert: place.expert)
        else { return nil }
        let leaf = WeightName.leaf(tensor)
        // A bias of the router is the one of the choice; every other is a bias.
        let isRenamed = leaf == leaves[0].1 || leaf == leaves[1].1 && place.role == .router
        return (module + "." + (isRenamed ? leaves.first { $0.1 == leaf }?.0 ?? String(leaf) : String(leaf)), entry.division)
    }
}
