import ArgumentParser
import Recast

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Looks at the machine: processor, memory, libraries, network settings, what a file system can do.",
        discussion: "A small file is written to PATH and removed again.")

    @Argument(help: "The directory that a conversion would write to; the working directory by default.") var path: String?
    @Flag(help: "One JSON document on standard output.") var json = false

    func run() throws {
        let diagnosis = try Diagnosis.machine(path)
        Console.print(json ? diagnosis.json : diagnosis.text)
    }
}

struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version", abstract: "Prints the version, the platform and the instruction sets that are used.")

    @Flag(help: "One JSON document on standard output.") var json = false

    func run() {
        let diagnosis = Diagnosis.version()
        Console.print(json ? diagnosis.json : diagnosis.text)
    }
}
