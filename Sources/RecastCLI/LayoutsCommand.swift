import ArgumentParser
import Recast

struct LayoutsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "layouts",
        abstract: "Lists the layouts: what describes them, what they repack to without rounding, whom they were checked against.",
        discussion: "All of them are read and written. A repacking is exact where the scales fit the other layout; `convert --dry-run` says so.")

    @Flag(help: "One JSON document on standard output.") var json = false

    func run() {
        guard json else { return Console.print(LayoutSupport.table) }
        let rows = LayoutSupport.all.map { row -> JSONValue in
            .object([
                "name": .string(row.name), "configuration": .string(row.configuration), "repacks": .array(row.repacks.map(JSONValue.string)),
                "bytes_equal_to": .string(row.peers.encoder), "read_by": .string(row.peers.readers),
            ])
        }
        Console.print(JSONValue.object(["schema": .int(1), "layouts": .array(rows)]).text())
    }
}

struct ArchitecturesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "architectures", abstract: "Lists the architectures that are known: which configurations they read, what can be done with them.",
        discussion:
            "All of them are inspected and converted; their forward passes are checked against transformers. Any other is converted with roles inferred."
    )

    @Flag(help: "One JSON document on standard output.") var json = false

    func run() {
        guard json else { return Console.print(ArchitectureSupport.table) }
        Console.print(
            JSONValue.object(["schema": .int(1), "architectures": .array(ArchitectureSupport.all.map { .object($0.json) })]).text())
    }
}
