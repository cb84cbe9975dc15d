import Foundation
import Recast
import TestSupport
import Testing

/// Where knowledge may stand: what modules are called in architectures and dialects, which layout a layout is in its folder. And what a floor may
/// import: what is below it.
@Suite struct WallsTests {
    static let root = URL(fileURLWithPath: Fixtures.directory).deletingLastPathComponent().deletingLastPathComponent().path

    /// Every source file under a folder, by its path.
    private static func files(_ folder: String) throws -> [(path: String, text: String)] {
        let all = FileManager.default.enumerator(atPath: root + "/" + folder)?.compactMap { $0 as? String } ?? []
        let sources = all.filter { [".swift", ".c", ".h"].contains(where: $0.hasSuffix) }.sorted()
        try #require(!sources.isEmpty, "\(folder) is not where it was")
        return try sources.map { (folder + "/" + $0, try String(contentsOfFile: root + "/" + folder + "/" + $0, encoding: .utf8)) }
    }

    @Test func modulesAreNamedInArchitecturesAndDialectsOnly() throws {
        let names = [
            "kv_b_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "mlp.gate", "e_score_correction_bias", "shared_experts", "eh_proj",
            "shared_head",
            "enorm", "hnorm", "embed_tokens", "q_a_layernorm", "kv_a_layernorm", "switch_mlp", "embed_q", "unembed_out",
        ]
        for file in try Self.files("Sources") + Self.files("Formats") {
            if file.path.hasPrefix("Sources/Architectures/") || file.path.hasPrefix("Formats/Dialects/") { continue }
            for name in names { #expect(!file.text.contains(name), "\(file.path) knows of \(name)") }
        }
    }

    @Test func layoutsAreNamedInFormatsOnly() throws {
        // Each layout's type is declared in its folder.
        let declared = try Self.files("Formats").flatMap { file in
            file.text.matches(of: /struct (\w+Layout)\b/).map { String($0.1) }
        }
        #expect(declared.count >= 11)
        for file in try Self.files("Sources") {
            for word in file.text.split(whereSeparator: { !$0.isLetter && !$0.isNumber }) where word.hasSuffix("Layout") {
                #expect(!declared.contains(String(word)), "\(file.path) names \(word)")
            }
        }
    }

    /// From the ground up; a floor imports only what stands before it.
    static let floors = [
        "CKernels", "StrictJSON", "Runtime", "Tensors", "Remote", "Tokenizers", "Architectures", "Formats", "Checkpoints", "Quantization",
        "Conversion",
        "ReferenceModels",
        "Calibration", "Consumers", "Parity", "Sweeps", "Recast", "RecastCLI",
    ]

    @Test func floorsImportDownwards() throws {
        for (height, floor) in Self.floors.enumerated() where floor != "CKernels" {
            for file in try Self.files(floor == "Formats" ? "Formats" : "Sources/" + floor) {
                for line in file.text.split(separator: "\n") {
                    let words = line.split(separator: " ")
                    guard let place = words.firstIndex(of: "import"), place + 1 < words.count, words.count <= 3,
                        let other = Self.floors.firstIndex(of: String(words[place + 1]))
                    else { continue }
                    #expect(other < height, "\(file.path) imports \(words[place + 1])")
                }
            }
        }
    }

    @Test func aForwardPassNeedsNoConverter() throws {
        for file in try Self.files("Sources/ReferenceModels") { #expect(!file.text.contains("import Conversion"), "\(file.path)") }
    }
}
