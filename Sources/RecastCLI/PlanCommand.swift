import ArgumentParser
import Foundation
import Recast

extension JobFile: ExpressibleByArgument {}

struct PlanCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Shows what a conversion would do, or prints the job file that runs it in parts.",
        discussion: """
            Takes the arguments of `recast convert`. With --emit the plan is made and then the file for a scheduler is printed: it starts the parts, runs
            them again when they are stopped, and joins them.
            """)

    @OptionGroup var conversion: ConvertCommand
    @Option(help: "Print a job file: \(JobFile.allCases.map(\.rawValue).joined(separator: ", ")).") var emit: JobFile?
    @Option(help: ArgumentHelp("Into how many parts the job file divides the conversion.", valueName: "n")) var parts: Int = 8
    @Option(help: ArgumentHelp("Kubernetes: the image that holds recast.", valueName: "name")) var image: String?
    @Option(help: ArgumentHelp("Kubernetes: the volume claim that holds source and destination.", valueName: "name")) var claim: String?
    @Option(help: ArgumentHelp("Kubernetes: where the claim is mounted.", valueName: "path")) var mount = "/checkpoints"

    func validate() throws {
        try conversion.validate()
        try asMistake { _ = try Part(1, of: parts) }
        if conversion.part != nil { throw ValidationError("recast plan takes --parts N; the job file says --part itself") }
    }

    func run() async throws {
        guard let emit else {
            var shown = conversion
            shown.dryRun = true
            return try await shown.run()
        }
        var request = conversion.request()
        var source = conversion.source
        // Kubernetes' paths are those inside the pods; elsewhere what cannot be planned or divided is refused here.
        if emit != .kubernetes {
            request.part = try Part(1, of: parts)
            source = try Conversion.plan(request).source
        }
        let settings = JobFile.Settings(parts: parts, memory: conversion.resources.memory.bytes, image: image, claim: claim, mount: mount)
        let program = emit == .kubernetes ? "recast" : Self.program
        var finish = [program, "finish", conversion.destination]
        if let memory = Self.value(of: "--memory", among: CommandLine.arguments) { finish += ["--memory", memory] }
        // All parts read the commit that was planned.
        let words = Self.words(CommandLine.arguments).map { $0 == conversion.source && source.contains("://") ? source : $0 }
        Console.print(
            String(try emit.text(convert: [program, "convert"] + words, finish: finish, settings).dropLast()))
    }

    /// This program, as a shell elsewhere finds it.
    private static var program: String {
        let name = CommandLine.arguments[0]
        guard name.contains("/"), !name.hasPrefix("/") else { return name }
        return FileManager.default.currentDirectoryPath + "/" + name
    }

    /// The words after `plan` that belong to the conversion.
    private static func words(_ arguments: [String]) -> [String] {
        let own: Set = ["--emit", "--parts", "--image", "--claim", "--mount"]
        var result: [String] = []
        var rest = arguments.dropFirst(2)
        while let word = rest.popFirst() {
            if own.contains(word) {
                rest = rest.dropFirst()
            } else if !own.contains(String(word.prefix { $0 != "=" })), !["--dry-run", "--json"].contains(word) {
                result.append(word)
            }
        }
        return result
    }

    private static func value(of option: String, among arguments: [String]) -> String? {
        for (index, word) in arguments.enumerated() {
            if word == option, index + 1 < arguments.count { return arguments[index + 1] }
            if word.hasPrefix(option + "=") { return String(word.dropFirst(option.count + 1)) }
        }
        return nil
    }
}
