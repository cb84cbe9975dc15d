import ArgumentParser
import Recast

struct SchemaCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schema", abstract: "Prints the JSON Schema of a document that other commands print or write.",
        discussion: "Without a name the documents are listed.")

    @Argument(help: "One of the documents.") var document: DocumentSchema?

    func run() {
        if let document { return Console.print(document.text) }
        let width = DocumentSchema.allCases.reduce(0) { max($0, $1.rawValue.count) }
        for document in DocumentSchema.allCases {
            Console.print(document.rawValue + String(repeating: " ", count: width - document.rawValue.count + 2) + document.description)
        }
    }
}

/// The documents of the command line, each with a JSON Schema (draft 2020-12) in the folder `Schemas`. A key that is not in it is never printed.
enum DocumentSchema: String, CaseIterable, ExpressibleByArgument {
    case architectures, convert, doctor, inspect
    case inspectTensors = "inspect-tensors"
    case layouts, manifest, plan, progress, sweep, verify, version

    private var bytes: [UInt8] {
        switch self {
        case .architectures: PackageResources.architectures_json
        case .convert: PackageResources.convert_json
        case .doctor: PackageResources.doctor_json
        case .inspect: PackageResources.inspect_json
        case .inspectTensors: PackageResources.inspect_tensors_json
        case .layouts: PackageResources.layouts_json
        case .manifest: PackageResources.manifest_json
        case .plan: PackageResources.plan_json
        case .progress: PackageResources.progress_json
        case .sweep: PackageResources.sweep_json
        case .verify: PackageResources.verify_json
        case .version: PackageResources.version_json
        }
    }

    var text: String { String(decoding: bytes.dropLast(), as: UTF8.self) }

    /// What the schema itself says of the document.
    var description: String { (try? JSONValue(parsing: bytes))?["description"]?.string ?? "" }
}
