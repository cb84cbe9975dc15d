import ArgumentParser
import Recast

struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "inspect", abstract: "Says what a checkpoint consists of.")

    @Argument(help: "A directory, a tensor file, or an index file.") var source: String
    @Flag(help: "One JSON document on standard output.") var json = false
    @Option(help: ArgumentHelp("List the weights whose names match, `*` standing for anything.", valueName: "glob")) var tensors: String?

    func run() throws {
        let checkpoint = try Checkpoint(opening: source)
        if let tensors { return try list(checkpoint, matching: ModulePattern(tensors)) }
        let inventory = Inventory(of: checkpoint)
        if json {
            Console.print(JSONValue.object(inventory.json).text())
        } else {
            show(inventory)
        }
    }

    private func list(_ checkpoint: Checkpoint, matching pattern: ModulePattern) throws {
        let found = checkpoint.weights.filter { pattern.matches($0.name) }
        if json {
            let rows = found.map { weight -> JSONValue in
                .object([
                    "name": .string(weight.name), "shape": .array(weight.dimensions.map(JSONValue.int)), "layout": .string(weight.layoutName),
                    "bytes": .int(weight.storedBytes), "file": .string(checkpoint.fileName(of: weight)),
                    "tensors": .array(weight.stored.map { .string("\($0.name): \($0.summary)") }),
                ])
            }
            Console.print(JSONValue.object(["schema": .int(1), "weights": .array(rows)]).text())
            return
        }
        var columns = TextColumns()
        for weight in found {
            columns.add(weight.name, "\(weight.dimensions)", weight.layoutName, "\(ByteSize(weight.storedBytes))", checkpoint.fileName(of: weight))
        }
        columns.lines.forEach(Console.print)
    }

    private func show(_ inventory: Inventory) {
        var head = "\(inventory.architecture) (\(inventory.modelType))"
        if let layers = inventory.layers { head += ", \(layers) layers" }
        if let experts = inventory.routedExperts { head += ", \(inventory.expertsPerToken.map { "\($0) of " } ?? "")\(experts) experts a token" }
        Console.print(head)
        var parameters = "\(Self.billions(inventory.parameters)) parameters"
        if let active = inventory.activeParameters { parameters += ", \(Self.billions(active)) active a token" }
        if inventory.mtpParameters > 0 { parameters += ", of which \(Self.billions(inventory.mtpParameters)) in multi-token-prediction layers" }
        Console.print(parameters)
        Console.print(
            "\(inventory.tensors.grouped) tensors (\(inventory.weights.grouped) weights), \(ByteSize(inventory.dataBytes)) in \(inventory.shards) files; quantization: \(inventory.quantization)"
        )
        var layouts = TextColumns()
        layouts.add("layout", "weights", "values", "stored", "bits a value")
        for row in inventory.byLayout {
            let bits = row.values == 0 ? "-" : "\((Double(row.bytes) * 800 / Double(row.values)).rounded() / 100)"
            layouts.add(row.layout, row.weights.grouped, row.values.grouped, "\(ByteSize(row.bytes))", bits)
        }
        Console.print("")
        layouts.lines.forEach(Console.print)
        var kinds = TextColumns()
        kinds.add("weights of a kind", "count", "shape", "layout", "stored")
        for row in inventory.byKind {
            kinds.add(row.kind, row.weights.grouped, "\(row.shape)", row.layouts.joined(separator: "|"), "\(ByteSize(row.bytes))")
        }
        Console.print("")
        kinds.lines.forEach(Console.print)
        var largest = TextColumns()
        largest.add("largest", "shape", "layout", "stored")
        for row in inventory.largest { largest.add(row.name, "\(row.shape)", row.layout, "\(ByteSize(row.bytes))") }
        Console.print("")
        largest.lines.forEach(Console.print)
        if !inventory.findings.isEmpty {
            Console.print("\nodd:")
            inventory.findings.forEach { Console.print("  " + $0) }
        }
    }

    /// 671.0 B, 12.3 M
    static func billions(_ count: Int) -> String {
        let value = Double(count)
        func tenths(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }
        return count >= 1_000_000_000 ? tenths(value / 1e9) + " B" : count >= 1_000_000 ? tenths(value / 1e6) + " M" : count.grouped
    }
}
