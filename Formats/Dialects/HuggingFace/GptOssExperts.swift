import Architectures
import StrictJSON
import Tensors

/// The experts of gpt-oss as they are released: stacks of MXFP4 blocks, `experts.gate_up_proj_blocks` U8 [experts, 2 * inner, hidden / 32, 16] with
/// `_scales` and `_bias`, and the same of `down_proj`; or, as transformers saves them, stacks of BF16 matrices with their inputs in rows,
/// `experts.gate_up_proj` [experts, hidden, 2 * inner]. Rows of gate and up are interleaved in both.
///
/// Each expert is a slice of the stored bytes under `experts.3.gate_up_proj.<blocks>`, `<scales>`, `bias` or `<transposed>`, and goes back to the same place.
package enum GptOssExperts {
    private static let matrices = ["gate_up_proj", "down_proj"]
    /// What follows a matrix's name in a file, and what the part is called here. vLLM reads a bias by the release's name beside Quark's codes too.
    private static let parts = [
        ("_blocks", MXFP4Layout.blockLeaves[0]), ("_scales", MXFP4Layout.blockLeaves[1]), ("_bias", "bias"), ("", TransposedDenseLayout.leaf),
        (".weight", "weight"), (".weight_scale", "weight_scale"), (".bias", "bias"),
    ]
    /// More than any size of a model.
    private static let limit = 1 << 24

    static func isModel(_ config: JSONValue) -> Bool { config["model_type"]?.string == "gpt_oss" }

    /// Every stack as the tensors of its experts; what cannot be taken apart stays and is named.
    static func unstacked(_ tensors: [StoredTensor], config: JSONValue, note: (_ tensor: String, _ text: String) -> Void) -> [StoredTensor] {
        func size(_ fields: String...) -> Int? {
            fields.lazy.compactMap { config[$0]?.int }.first.flatMap { (1..<limit).contains($0) ? $0 : nil }
        }
        let (hidden, inner, experts) = (size("hidden_size"), size("intermediate_size"), size("num_local_experts", "num_experts"))
        let names = Set(tensors.map(\.name))
        return tensors.flatMap { tensor -> [StoredTensor] in
            guard let place = place(of: tensor.name) else { return [tensor] }
            guard let hidden, let inner, let experts else {
                note(tensor.name, "is not taken apart: config.json gives no sizes of gpt-oss's experts")
                return [tensor]
            }
            let (outputs, inputs) = place.matrix == "down_proj" ? (hidden, inner) : (2 * inner, hidden)
            let (expected, types): ([Int], Set<ScalarType>)
            switch place.part {
            case MXFP4Layout.blockLeaves[0]: (expected, types) = ([outputs, ceilingDivide(inputs, 32), 16], [.u8])
            case MXFP4Layout.blockLeaves[1]: (expected, types) = ([outputs, ceilingDivide(inputs, 32)], [.u8, .f8E8M0])
            case "weight": (expected, types) = ([outputs, inputs / 2], [.u8])
            case "weight_scale": (expected, types) = ([outputs, ceilingDivide(inputs, 32)], [.u8, .f8E8M0])
            case "bias": (expected, types) = ([outputs], [.bf16, .f16, .f32])
            default: (expected, types) = ([inputs, outputs], [.bf16, .f16, .f32])
            }
            guard tensor.shape == [experts] + expected, types.contains(tensor.type), tensor.byteCount > 0, tensor.byteCount % experts == 0,
                inputs % 32 == 0 || ["bias", TransposedDenseLayout.leaf].contains(place.part)
            else {
                note(
                    tensor.name,
                    "is \(tensor.summary), and gpt-oss's stack of experts would be \(types.map(\.rawValue).sorted()) \([experts] + expected), so it is not taken apart"
                )
                return [tensor]
            }
            let size = tensor.byteCount / experts
            let slices = (0..<experts).map { expert in
                var slice = tensor
                slice.name = "\(place.parent).\(expert).\(place.matrix).\(place.part)"
                slice.shape = expected
                slice.offset += expert * size
                slice.byteCount = size
                return slice
            }
            guard slices.allSatisfy({ !names.contains($0.name) }) else {
                note(tensor.name, "is not taken apart: an expert of it is stored by itself as well")
                return [tensor]
            }
            return slices
        }
    }

    /// Gate and up by themselves, as llm-compressor and mlx-lm have them: rows 0, 2, ... and 1, 3, ... of what is one matrix here.
    static func halves(of weight: LogicalTensor) -> [StoredPiece] {
        let parent = WeightName.module(weight.module) + "."
        return halves.enumerated().map { index, name in
            StoredPiece(module: parent + name, view: WeightView(first: index, step: 2, of: weight.shape))
        }
    }

    static let halves = ["gate_proj", "up_proj"]

    /// What the other half is called, and the two together, of `model.layers.3.mlp.experts.7.gate_proj.weight`; nil for any other name.
    package static func pair(of gate: String) -> (up: String, whole: String)? {
        let words = gate.split(separator: ".", omittingEmptySubsequences: false)
        let place = words.count - 2
        guard place > 2, words[place] == "gate_proj", words[place - 2] == "experts", Int(words[place - 1]) != nil else { return nil }
        func named(_ name: Substring) -> String { (words[..<place] + [name] + words[(place + 1)...]).joined(separator: ".") }
        return (named("up_proj"), named("gate_up_proj"))
    }

    /// The layout of both halves together; nil if a row of the whole has no place of its own.
    package static func joined(gate: any WeightLayout, up: any WeightLayout) -> (any WeightLayout)? { PairedRowsLayout(gate: gate, up: up) }

    /// `model.layers.3.mlp.experts`, `down_proj` and `blocks` of a stack's name.
    private static func place(of name: String) -> (parent: Substring, matrix: String, part: String)? {
        for matrix in matrices {
            for (suffix, part) in parts where name.hasSuffix(".experts." + matrix + suffix) {
                return (name.dropLast(matrix.utf8.count + suffix.utf8.count + 1), matrix, part)
            }
        }
        return nil
    }

    /// The stored name of a part of a stack, from `model.layers.3.mlp.experts.down_proj.blocks`; nil for any other.
    static func storedName(of tensor: String) -> String? {
        for matrix in matrices {
            for (suffix, part) in parts where tensor.hasSuffix(".experts.\(matrix).\(part)") {
                return tensor.dropLast(part.utf8.count + 1) + suffix
            }
        }
        return nil
    }
}
