import Foundation
import Recast

extension FuzzReader {
    /// What an earlier run left behind.
    static let runs: [FuzzReader] = [
        // The journal of an interrupted run, one of some by the first byte, under its own identity; or, after "!", all of the journal.
        FuzzReader("journal") { input in
            let (number, rest) = input.choice(below: InterruptedRun.all.count)
            let run = InterruptedRun.all[number]
            run.restore(journal: rest.first == UInt8(ascii: "!") ? Array(rest.dropFirst()) : run.identity + rest)
            refusable {
                _ = try run.again()
                do { _ = try Checkpoint(opening: run.destination) } catch { finding("what was finished cannot be opened", "\(error)") }
            }
        },
        // The manifest of a finished conversion ("0"), or of the source ("1"). "@plan" stands for the plan that the run has.
        FuzzReader("manifest") { input in
            let (number, rest) = input.choice(below: 2)
            let run = InterruptedRun.finished
            if number == 0 {
                let text = String(decoding: rest, as: UTF8.self).replacing("@plan", with: run.plan.fingerprint)
                FuzzDirectory.write(Array(text.utf8), to: run.destination + "/recast.manifest.json")
                refusable { _ = try run.again() }
            } else {
                FuzzDirectory.write(rest, to: run.checkpoint.directory + "/recast.manifest.json")
                let output = FuzzDirectory.path + "/converted"
                FuzzDirectory.remove(output)
                refusable {
                    _ = try ConversionRun(plan: run.plan, checkpoint: run.checkpoint, destination: output, options: FixedModel.options).execute()
                }
            }
        },
    ]
}

/// A conversion and what its destination held when it was stopped.
struct InterruptedRun: Sendable {
    var plan: ConversionPlan
    var checkpoint: Checkpoint
    var destination: String
    /// Files of the destination but for the journal.
    private var files: [(path: String, bytes: [UInt8])] = []
    /// The journal's first line.
    private(set) var identity: [UInt8] = []

    private static let journal = ".recast/journal"

    static let all = [
        InterruptedRun("stopped", to: "bf16", Safetensors.self, after: 5), InterruptedRun("packed", to: "int8-channel", ZstdArchive.self, after: 6),
        InterruptedRun("copied", to: LayoutChoice.keepName, Safetensors.self, after: 3),
    ]
    static let finished = InterruptedRun("finished", to: "bf16", Safetensors.self, after: .max)

    private init(_ name: String, to target: String, _ container: any Container.Type, after events: Int) {
        let source = FuzzDirectory.empty(name + "-source"), destination = FuzzDirectory.path + "/" + name
        FuzzDirectory.write(FixedTensors.files[0], to: source + "/model.safetensors")
        FuzzDirectory.write(Array(#"{"quantization_config":{"quant_method":"fp8"}}"#.utf8), to: source + "/config.json")
        self.destination = destination
        (checkpoint, plan) = FuzzDirectory.prepare {
            let checkpoint = try Checkpoint(opening: source)
            let output = OutputOptions(container: container, shardSize: 2048)
            return (checkpoint, try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target), output: output))
        }
        FuzzDirectory.remove(destination)
        do { _ = try run(resume: false).execute(stop: StopToken(afterEvents: events)) } catch {
            guard (error as? any Failure)?.kind == .interrupted else { fatalError("cannot prepare a run: \(error)") }
        }
        guard events < .max else { return }
        let journal = FuzzDirectory.prepare { try FileTree.read(destination + "/" + Self.journal, limit: 1 << 20) }
        identity = Array(journal.prefix { $0 != UInt8(ascii: "\n") }) + [UInt8(ascii: "\n")]
        for path in FileManager.default.subpaths(atPath: destination) ?? [] where path != Self.journal {
            guard case .file? = try? FileTree.entry(destination + "/" + path) else { continue }
            files.append((path, FuzzDirectory.prepare { try FileTree.read(destination + "/" + path, limit: 1 << 20) }))
        }
    }

    func restore(journal: [UInt8]) {
        FuzzDirectory.remove(destination)
        FuzzDirectory.prepare {
            try FileTree.createDirectory(destination)
            try FileTree.createDirectory(destination + "/.recast")
        }
        for file in files + [(Self.journal, journal)] { FuzzDirectory.write(file.bytes, to: destination + "/" + file.path) }
    }

    func again() throws -> RunReport { try run(resume: true).execute() }

    private func run(resume: Bool) -> ConversionRun {
        ConversionRun(plan: plan, checkpoint: checkpoint, destination: destination, options: RunOptions(memory: 64 << 20, jobs: 1, resume: resume))
    }
}
