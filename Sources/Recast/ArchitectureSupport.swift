import Architectures
import Formats
import StrictJSON

/// What can be done with an architecture: the rows of the support matrix, worked out from the registries.
package struct ArchitectureSupport: Sendable, Equatable {
    package var name: String
    /// `model_type`s in config.json.
    package var modelTypes: [String]
    /// Whether sequences are limited in the reference forward pass, in a word; empty if not.
    package var limit: String
    /// llama.cpp's name, where GGUF files of it are written and read; nil where they are not.
    package var llamaCpp: String?

    /// Every known architecture, in the order of the registry. All of them are inspected, converted and run; the others are converted with roles
    /// inferred.
    package static let all = Architecture.known.map { architecture in
        ArchitectureSupport(
            name: architecture.name, modelTypes: architecture.modelTypes.sorted(), limit: architecture.limit,
            llamaCpp: LlamaCpp.name(of: architecture))
    }

    /// The matrix as a Markdown table.
    package static var table: String {
        let rows = all.map { row in
            let types = row.modelTypes.map { "`\($0)`" }.joined(separator: " ")
            let forward = row.limit.isEmpty ? "yes" : row.limit
            let calibration = row.limit.isEmpty ? "yes" : "no"
            return "| \(row.name) | \(types) | \(forward) | \(calibration) | \(row.llamaCpp.map { "`\($0)`" } ?? "") |"
        }
        return (["| architecture | `model_type` | forward pass | calibration | GGUF |", "| --- | --- | --- | --- | --- |"] + rows).joined(
            separator: "\n")
    }

    package var json: JSONObject {
        [
            "name": .string(name), "model_types": .array(modelTypes.map(JSONValue.string)), "convert": .bool(true), "forward": .bool(true),
            "forward_limit": limit.isEmpty ? .null : .string(limit), "calibrate": .bool(limit.isEmpty),
            "gguf": llamaCpp.map(JSONValue.string) ?? .null,
        ]
    }
}
