import Conversion
import Formats
import Foundation
import Remote
import Runtime
import StrictJSON
import Tensors

/// What Recast finds on a machine: what it was built as, the processor, limits, libraries, and what a file system can do.
public struct Diagnosis: Sendable {
    /// One thing that was looked at.
    public struct Line: Sendable, Equatable {
        /// What it is about: `version`, `processor`, `memory`, ...
        public var subject: String
        /// What was found.
        public var finding: String
        /// What follows from it, where something does; nil where all is well.
        public var advice: String?
    }

    /// In the order in which they are shown.
    public private(set) var lines: [Line] = []
    private var document: JSONObject = ["schema": .int(1)]

    /// Version, platform and instruction sets of this build.
    public static func version() -> Diagnosis {
        var diagnosis = Diagnosis()
        diagnosis.add("version", "recast \(recastVersion)", json: .string(recastVersion))
        diagnosis.add("platform", platform, json: .string(platform))
        let kernels = KernelLevel.available.map { "\($0)" }
        diagnosis.document["kernels"] = .object([
            "active": .string("\(KernelLevel.active)"), "available": .array(kernels.map(JSONValue.string)),
        ])
        let wish = ProcessInfo.processInfo.environment["RECAST_KERNELS"]
        let isLimited = KernelLevel.active != KernelLevel.available.last
        diagnosis.lines.append(
            Line(
                subject: "kernels", finding: "\(KernelLevel.active) of \(kernels.joined(separator: ", "))",
                advice: isLimited ? "RECAST_KERNELS=\(wish ?? "") makes conversions slower, with the same bytes" : nil))
        return diagnosis
    }

    /// The machine, and the file system of a path.
    /// - Parameter path: a directory to be written to, or one that will be made; the working directory if nil.
    /// - Throws: a ``Failure`` if nothing can be written there.
    public static func machine(_ path: String? = nil) throws -> Diagnosis {
        var diagnosis = version()
        diagnosis.processor()
        diagnosis.memory()
        diagnosis.libraries()
        diagnosis.network()
        try diagnosis.fileSystem(path ?? ".")
        return diagnosis
    }

    /// For people: a line for each finding, advice under it.
    public var text: String {
        let width = lines.map(\.subject.count).max() ?? 0
        return lines.map { line in
            let pad = String(repeating: " ", count: width - line.subject.count + 2)
            return line.subject + pad + line.finding + (line.advice.map { "\n" + String(repeating: " ", count: width + 2) + "! " + $0 } ?? "")
        }.joined(separator: "\n")
    }

    /// For programs: one JSON document.
    public var json: String {
        var document = document
        document["advice"] = .array(lines.compactMap(\.advice).map(JSONValue.string))
        return JSONValue.object(document).text()
    }

    private init() {}

    private mutating func add(_ subject: String, _ finding: String, json: JSONValue, advice: String? = nil) {
        lines.append(Line(subject: subject, finding: finding, advice: advice))
        document[subject.replacing(" ", with: "_")] = json
    }

    private static var platform: String {
        #if arch(x86_64)
            let processor = "x86_64"
        #elseif arch(arm64)
            let processor = "arm64"
        #else
            let processor = "other"
        #endif
        #if os(Linux)
            return "linux-" + processor
        #elseif os(macOS)
            return "macos-" + processor
        #else
            return "other-" + processor
        #endif
    }

    private mutating func processor() {
        let usable = ProcessFigures.processorCount, all = ProcessInfo.processInfo.processorCount
        add(
            "processors", usable == all ? "\(all)" : "\(usable) of \(all), by affinity or the container's quota",
            json: .object(["usable": .int(usable), "machine": .int(all)]))
    }

    private mutating func memory() {
        let installed = Int(clamping: ProcessInfo.processInfo.physicalMemory)
        let limit = ProcessFigures.memoryLimit
        var object: JSONObject = ["machine": .int(installed)]
        if let limit { object["limit"] = .int(limit) }
        let usual = RunOptions().memory
        let least = min(installed, limit ?? installed)
        add(
            "memory", "\(ByteSize(installed))" + (limit.map { ", of which the container grants \(ByteSize($0))" } ?? ""), json: .object(object),
            advice: least < usual + usual / 4 ? "give --memory \(max(64, least >> 21))MiB or less, or set RECAST_MEMORY" : nil)
        let files = ProcessFigures.openFileLimit
        add(
            "open files", "\(files)", json: .int(files),
            advice: files < 1024 ? "a checkpoint of many shards needs as many: ulimit -n 4096" : nil)
    }

    private mutating func libraries() {
        var found: JSONObject = ["zstd": .string(ZstdArchive.libraryVersion)]
        var text = "zstd \(ZstdArchive.libraryVersion)"
        var advice: String?
        switch HDF5.libraryVersion() {
        case .success(let version):
            found["hdf5"] = .string(version)
            text += ", hdf5 \(version)"
        case .failure(let failure):
            found["hdf5"] = .null
            text += ", no hdf5"
            advice = failure.sentence
        }
        add("libraries", text, json: .object(found), advice: advice)
    }

    private mutating func network() {
        let environment = RemoteEnvironment.process
        let proxy = environment.proxy(forScheme: "https", host: "huggingface.co") != nil
        let parts = [
            environment.hubEndpoint, environment.isOffline ? "offline" : nil, environment.hubToken == nil ? "no token" : "with a token",
            proxy ? "through a proxy" : nil, "cache " + (environment.blockCache ?? "off"),
        ]
        add(
            "hub", parts.compactMap { $0 }.joined(separator: ", "),
            json: .object([
                "endpoint": .string(environment.hubEndpoint), "offline": .bool(environment.isOffline),
                "token": .bool(environment.hubToken != nil), "proxy": .bool(proxy), "cache": environment.blockCache.map(JSONValue.string) ?? .null,
            ]))
    }

    private mutating func fileSystem(_ path: String) throws {
        var directory = path
        while try FileTree.entry(directory) != .directory {
            let above = FileTree.directory(of: directory)
            guard above != directory else { break }
            directory = above
        }
        let probe = try FileSystemProbe(directory)
        let abilities = [
            ("locks", probe.locks), ("fsync", probe.synchronizes), ("holes", probe.holes), ("reflinks", probe.clones),
            ("kernel copies", probe.copies),
        ]
        let can = abilities.filter(\.1).map(\.0), cannot = abilities.filter { !$0.1 }.map(\.0)
        var object: JSONObject = ["path": .string(directory), "type": .string(probe.type)]
        object["free"] = probe.free.map(JSONValue.int)
        for (name, holds) in abilities { object[name.replacing(" ", with: "_")] = .bool(holds) }
        add(
            "file system", "\(directory): \(probe.type)" + (probe.free.map { ", \(ByteSize($0)) free" } ?? ""), json: .object(object))
        let advice = [
            probe.locks ? nil : "two runs in one directory are told apart by a lease file here, which takes a minute after a crash",
            probe.synchronizes ? nil : "what was written may be lost if the power fails",
        ].compactMap { $0 }
        lines.append(
            Line(
                subject: "it has", finding: can.joined(separator: ", ") + (cannot.isEmpty ? "" : "; not " + cannot.joined(separator: ", ")),
                advice: advice.isEmpty ? nil : advice.joined(separator: "; ")))
    }
}
