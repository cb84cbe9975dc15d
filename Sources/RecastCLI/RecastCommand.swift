import ArgumentParser
import Foundation
import Recast

@main
struct RecastCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recast",
        abstract: "Converts, quantizes and verifies DeepSeek-V3-class checkpoints on a CPU, within a memory budget.",
        version: recastVersion,
        subcommands: [
            InspectCommand.self, ConvertCommand.self, FinishCommand.self, PlanCommand.self, VerifyCommand.self, ForwardCommand.self,
            CalibrateCommand.self,
            SweepCommand.self, LayoutsCommand.self, ArchitecturesCommand.self, DoctorCommand.self, SchemaCommand.self,
            VersionCommand.self,
        ])

    static func main() async {
        // The system says what was typed by way of /proc; without it every command would look like none.
        guard !CommandLine.arguments.isEmpty else {
            Console.error("recast: the arguments cannot be read; is /proc mounted?")
            Foundation.exit(FailureKind.noInput.rawValue)
        }
        ProcessFigures.shareFreedMemory()
        // A closed pipe ends the output, not the process: the write fails and is reported.
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            if var long = command as? any AsyncParsableCommand { try await long.run() } else { try command.run() }
        } catch let failure as any Failure {
            Console.error("recast: \(failure)")
            Foundation.exit(failure.kind.rawValue)
        } catch let code as ExitCode {
            exit(withError: code)
        } catch {
            // What neither we nor the argument parser know is a bug, not a parity failure, which is exit status 1.
            guard exitCode(for: error) == .failure else { exit(withError: error) }
            Console.error("recast: unexpected error, please report it: \(error)")
            Foundation.exit(FailureKind.internalError.rawValue)
        }
    }
}

extension ParsableCommand {
    /// What the library refuses while arguments are read, in the argument parser's words.
    func asMistake<Result>(_ body: () throws -> Result) throws {
        do { _ = try body() } catch let failure as any Failure { throw ValidationError("\(failure)") }
    }
}

/// Standard output for results, standard error for everything else.
enum Console {
    static func print(_ text: String) {
        try? FileHandle.standardOutput.write(contentsOf: Data((text + "\n").utf8))
    }

    static func error(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data((text + "\n").utf8))
    }

    static var isErrorTerminal: Bool { isatty(2) == 1 }

    /// Rewrites the live line on a terminal; an empty text clears it.
    static func live(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data(("\r\u{1B}[2K" + text).utf8))
    }
}

/// Columns of text, the first left-aligned and the rest right-aligned.
struct TextColumns {
    private var rows: [[String]] = []

    mutating func add(_ cells: String...) { rows.append(cells) }

    var lines: [String] {
        let count = rows.map(\.count).max() ?? 0
        let widths = (0..<count).map { column in rows.compactMap { $0.indices.contains(column) ? $0[column].count : nil }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                let pad = String(repeating: " ", count: widths[column] - cell.count)
                line += column == 0 ? "  " + cell + pad : "  " + pad + cell
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}

/// A size such as 2GiB or 512M.
struct SizeArgument: ExpressibleByArgument {
    var bytes: Int

    init?(argument: String) {
        guard let size = ByteSize(parsing: argument) else { return nil }
        bytes = size.bytes
    }

    /// As it is typed.
    var defaultValueDescription: String { "\(ByteSize(bytes))".replacing(" ", with: "").replacing(".0", with: "") }
}

/// SIGINT and SIGTERM ask a run to stop at the next tile; the second one ends the process at once.
final class Interruption {
    private let token = StopToken()
    private var sources: [any DispatchSourceSignal] = []

    /// - Parameter stop: asks the work to stop.
    init(_ stop: @escaping @Sendable () -> Void) {
        for number in [SIGINT, SIGTERM] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            let token = token
            source.setEventHandler {
                if token.isStopped { Foundation.exit(FailureKind.interrupted.rawValue) }
                token.stop()
                stop()
            }
            source.resume()
            sources.append(source)
        }
    }

    /// Signals end the process again.
    func end() {
        sources.forEach { $0.cancel() }
        for number in [SIGINT, SIGTERM] { signal(number, SIG_DFL) }
    }
}
