import Architectures
import StrictJSON
import Tensors

/// The routed experts of a layer as transformers 5 keeps them: `experts.gate_up_proj` [experts, 2 * inner, hidden] with the rows of the
/// gate before those of the up projection, and `experts.down_proj` [experts, hidden, inner]. Each expert is a slice of the stored bytes,
/// so taking them apart costs nothing.
///
/// Other models keep them transposed ([experts, hidden, 2 * inner]: Qwen3-VL-MoE, Llama 4) or with gate and up interleaved (gpt-oss,
/// which has biases beside them). Which it is, is worked out from the widths that config.json gives; a stack whose sides could be
/// either is left alone.
struct FusedExperts {
    private let hidden: Int?
    private let inner: Int?
    private let count: Int?
    private let isKnownOtherwise: Bool

    init(_ config: JSONValue) {
        let text = ["text_config", "language_config", "llm_config"].lazy.compactMap { config[$0] }.first ?? config
        hidden = text["hidden_size"]?.int
        inner = ["moe_intermediate_size", "expert_intermediate_size", "intermediate_size"].lazy.compactMap { text[$0]?.int }.first
        count = ["n_routed_experts", "num_experts", "num_local_experts"].lazy.compactMap { text[$0]?.int }.first
        isKnownOtherwise = ["gpt_oss", "qwen3_vl_moe", "llama4", "llama4_text"].contains(text["model_type"]?.string ?? "")
    }

    /// More experts than any model has.
    private static let limit = 1 << 16

    /// Every fused tensor as the weights of its experts; what cannot be taken apart stays and is named.
    func unstacked(_ tensors: [StoredTensor], note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        let fused = tensors.filter { Self.place(of: $0.name) != nil && $0.shape.count == 3 }
        guard !fused.isEmpty else { return tensors }
        let names = Set(tensors.map(\.name))
        /// Parents whose gate and up projections, and down projections, have their outputs in rows.
        var sound = Set<Substring>()
        for tensor in fused {
            guard let place = Self.place(of: tensor.name), place.leaf == "gate_up_proj" else { continue }
            if isRowsFirst(gateUp: tensor.shape), !names.contains(place.parent + ".gate_up_proj_bias") { sound.insert(place.parent) }
        }
        var left: [String] = []
        let result = tensors.flatMap { tensor -> [StoredTensor] in
            guard let place = Self.place(of: tensor.name), tensor.shape.count == 3 else { return [tensor] }
            guard sound.contains(place.parent), let slices = slices(of: tensor, place) else {
                left.append(tensor.name)
                return [tensor]
            }
            return slices
        }
        if let first = left.first {
            let count = left.count > 1 ? " (\(left.count) such tensors)" : ""
            note(first, "is a stack of experts whose orientation or number config.json does not explain, so it is not taken apart\(count)")
        }
        return result
    }

    private func isRowsFirst(gateUp shape: [Int]) -> Bool {
        guard !isKnownOtherwise, let hidden, let inner, hidden > 0, inner > 0 else { return false }
        if let count, count != shape[0] { return false }
        return shape[1] == 2 * inner && shape[2] == hidden && 2 * inner != hidden
    }

    private func slices(of tensor: StoredTensor, _ place: (parent: Substring, leaf: Substring)) -> [StoredTensor]? {
        let (count, rows, columns) = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
        guard let hidden, let inner, (1...Self.limit).contains(count), tensor.byteCount > 0, tensor.type.isDenseFloat else { return nil }
        if place.leaf == "down_proj", rows != hidden || columns != inner { return nil }
        let halves = place.leaf == "gate_up_proj" ? ["gate_proj", "up_proj"] : ["down_proj"]
        let size = tensor.byteCount / count / halves.count
        return (0..<count).flatMap { expert in
            halves.enumerated().map { half, name in
                var slice = tensor
                slice.name = place.parent + ".\(expert).\(name).weight"
                slice.shape = [rows / halves.count, columns]
                slice.offset += (expert * halves.count + half) * size
                slice.byteCount = size
                return slice
            }
        }
    }

    /// `model.layers.3.mlp.experts` and `gate_up_proj` of a fused tensor's name, with or without `.weight`.
    private static func place(of name: String) -> (parent: Substring, leaf: Substring)? {
        let stem = name.hasSuffix(".weight") ? name.dropLast(".weight".count) : name[...]
        for leaf in ["gate_up_proj", "down_proj"] where stem.hasSuffix(".experts." + leaf) {
            return (stem.dropLast(leaf.count + 1), stem.suffix(leaf.count))
        }
        return nil
    }
}
