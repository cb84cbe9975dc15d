import Architectures
import Formats
import StrictJSON

/// What can be done with an architecture: the rows of the support matrix, worked out from the registries.
package struct ArchitectureSupport: Sendable, Equatable {
    package var name: String
    /// `model_type`s in config.json.
    package var modelTypes: [String]
    /// The class of transformers that the logits of the forward pass are held against.
    package var oracle: String
    /// llama.cpp's name, where GGUF files of it are written and read; nil where they are not.
    package var llamaCpp: String?

    /// Every known architecture, in the order of the registry. All of them are inspected, converted and run; the others are converted with roles
    /// inferred.
    package static let all = Architecture.known.map { architecture in
        ArchitectureSupport(
            name: architecture.name, modelTypes: architecture.modelTypes.sorted(), oracle: architecture.oracle,
            llamaCpp: LlamaCpp.name(of: architecture))
    }

    /// The matrix as a Markdown table.
    package static var table: String {
        let rows = all.map { row in
            let types = row.modelTypes.map { "`\($0)`" }.joined(separator: " ")
            return "| \(row.name) | \(types) | yes | \(row.oracle) | \(row.llamaCpp.map { "`\($0)`" } ?? "") |"
        }
        let head = "| architecture | `model_type` | inspect, convert, calibrate, forward | logits held against transformers' | GGUF |"
        return ([head, "| --- | --- | --- | --- | --- |"] + rows).joined(
            separator: "\n")
    }

    package var json: JSONObject {
        [
            "name": .string(name), "model_types": .array(modelTypes.map(JSONValue.string)), "convert": .bool(true), "forward": .bool(true),
            "calibrate": .bool(true), "oracle": .string("transformers " + oracle),
            "gguf": llamaCpp.map(JSONValue.string) ?? .null,
        ]
    }
}
