import Tensors

/// What llama.cpp calls a file's type: a block type for most weights, and rules for the rest.
///
/// The rules are those of llama.cpp:src/llama-quant.cpp (`llama_tensor_get_type_impl`, `tensor_type_fallback`).
package struct LlamaCppFileType: Sendable, Equatable {
    /// On the command line, as llama-quantize spells it.
    package let name: String
    /// `general.file_type`.
    package let number: UInt32
    /// Of weights for which no rule says otherwise.
    package let type: ScalarType

    private init(_ name: String, _ number: UInt32, _ type: ScalarType) {
        self.name = name
        self.number = number
        self.type = type
    }

    package static let all = [
        LlamaCppFileType("Q8_0", 7, .q8_0), .init("Q6_K", 18, .q6K), .init("Q5_K_M", 17, .q5K), .init("Q5_K_S", 16, .q5K), .init("Q5_1", 9, .q5_1),
        .init("Q5_0", 8, .q5_0), .init("Q4_K_M", 15, .q4K), .init("Q4_K_S", 14, .q4K), .init("Q4_1", 3, .q4_1), .init("Q4_0", 2, .q4_0),
        .init("IQ4_NL", 25, .iq4NL), .init("IQ4_XS", 30, .iq4XS), .init("MXFP4_MOE", 38, .mxfp4Block), .init("Q3_K_L", 13, .q3K),
        .init("Q3_K_M", 12, .q3K), .init("Q3_K_S", 11, .q3K), .init("Q2_K", 10, .q2K),
    ]

    /// Weights as plain numbers; nil for a type that is none.
    package static func plain(_ type: ScalarType) -> LlamaCppFileType? {
        switch type {
        case .f32: LlamaCppFileType("f32", 0, .f32)
        case .f16: LlamaCppFileType("f16", 1, .f16)
        case .bf16: LlamaCppFileType("bf16", 32, .bf16)
        default: nil
        }
    }

    package var isPlain: Bool { type.block == nil }

    /// What the rules ask of the model.
    package struct Model: Sendable, Equatable {
        package var layers: Int
        package var experts: Int
        /// Query heads that share a key head.
        package var queryGroups: Int
        package var tiesHead: Bool
        /// Whether errors are weighed by an importance matrix.
        package var hasImportance: Bool
        /// What llama.cpp takes for Llama 70B: eighty layers whose values are shared by several heads.
        package var isLlama70B = false
    }

    /// The type of a tensor.
    /// - Parameters:
    ///   - name: stored, with `.weight`.
    ///   - columns: of its rows.
    ///   - isStack: whether it holds the matrices of several experts or heads.
    package func type(of name: String, columns: Int, isStack: Bool, in model: Model) -> ScalarType {
        if isPlain { return type }
        let wanted = rule(name, columns, isStack, model)
        return Self.fitting(wanted, columns)
    }

    /// Types whose blocks divide a row, in place of one whose blocks do not.
    private static func fitting(_ type: ScalarType, _ columns: Int) -> ScalarType {
        func fits(_ type: ScalarType) -> Bool { columns % (type.block?.values ?? 1) == 0 }
        if fits(type) { return type }
        let smaller: ScalarType =
            switch type {
            case .iq4XS: .iq4NL
            case .q2K, .q3K: .q4_0
            case .q4K: .q5_0
            case .q5K: .q5_1
            case .q6K: .q8_0
            default: .f16
            }
        return fits(smaller) ? smaller : .f16
    }

    private func rule(_ name: String, _ columns: Int, _ isStack: Bool, _ model: Model) -> ScalarType {
        let layer = Self.layer(of: name) ?? 0
        let count = model.layers
        /// The layers that lose most, and every third between.
        let isSensitive = layer < count / 8 || layer >= 7 * count / 8 || (layer - count / 8) % 3 == 2
        let isEarly = layer < count / 8
        if name == "output.weight" || model.tiesHead && name == "token_embd.weight" {
            if self.name == "MXFP4_MOE" || columns % (type.block?.values ?? 1) != 0 { return .q8_0 }
            return type == .q8_0 ? .q8_0 : .q6K
        }
        if self.name == "MXFP4_MOE" { return isStack ? .mxfp4Block : .q8_0 }
        if name == "token_embd.weight" { return type }
        if name.hasSuffix("attn_v.weight") { return value(layer, isSensitive, model) }
        if name.hasSuffix("attn_k.weight") { return model.experts == 8 ? .q8_0 : type }
        if name.contains("ffn_down") {
            switch self.name {
            case "Q2_K": return .q3K
            case "Q3_K_M": return layer < count / 16 ? .q5K : .q4K
            case "Q3_K_L": return .q5K
            case "Q4_K_M", "Q5_K_M": return isSensitive ? .q6K : type
            case "Q4_K_S": return isEarly ? .q5K : type
            case "IQ4_NL", "IQ4_XS": return isEarly && !model.hasImportance ? .q5K : type
            case "Q4_0": return isEarly && model.hasImportance ? .q4_1 : type
            case "Q5_0": return isEarly && model.hasImportance ? .q5_1 : type
            default: return type
            }
        }
        if name.hasSuffix("attn_output.weight") {
            if model.experts == 8 { return ["Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS"].contains(self.name) ? .q5K : type }
            switch self.name {
            case "Q2_K": return .q3K
            case "Q3_K_M": return .q4K
            case "Q3_K_L": return .q5K
            default: return type
            }
        }
        return type
    }

    private func value(_ layer: Int, _ isSensitive: Bool, _ model: Model) -> ScalarType {
        if model.experts == 8 { return .q8_0 }
        let wanted = valueRule(layer, isSensitive, model)
        return model.isLlama70B && (wanted == .q3K || wanted == .q4K) ? .q5K : wanted
    }

    private func valueRule(_ layer: Int, _ isSensitive: Bool, _ model: Model) -> ScalarType {
        switch name {
        case "Q2_K": return model.queryGroups >= 4 ? .q4K : .q3K
        case "Q3_K_M": return layer < 2 ? .q5K : .q4K
        case "Q3_K_L": return .q5K
        case "IQ4_NL", "IQ4_XS": return model.queryGroups >= 4 ? .q5K : type
        case "Q4_K_M", "Q5_K_M": return isSensitive ? .q6K : type
        case "Q4_K_S": return layer < 4 ? .q5K : type
        default: return type
        }
    }

    private static func layer(of name: String) -> Int? {
        let words = name.split(separator: ".")
        return words.count > 1 && words[0] == "blk" ? Int(words[1]) : nil
    }
}
