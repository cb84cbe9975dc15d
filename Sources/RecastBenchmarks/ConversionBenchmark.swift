import ArgumentParser
import Foundation
import Recast

/// `recast convert` against `cp` of a file as large as the output, in turns, page cache warm; and the memory it took.
struct ConversionBenchmark: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "conversion", abstract: "Whole conversions as ratios to cp.")

    @Option(help: "Where to work; a file system in memory leaves the disk out of it.") var directory = "/dev/shm"
    @Option(help: "Size of the generated FP8 checkpoint in MiB.") var size = 1024
    @Option(help: "Layouts to convert to.") var to: [String] = ["bf16", "int4-g128"]
    @Option(help: "The memory budget given to recast.") var memory = "256MiB"
    @Option(help: "Rounds that count.") var rounds = 5

    func run() throws {
        let work = directory + "/recast-benchmark-\(ProcessInfo.processInfo.processIdentifier)"
        try FileManager.default.createDirectory(atPath: work, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: work) }
        try makeCheckpoint(work + "/source")
        let recast = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent().path + "/recast"

        for layout in to {
            let output = work + "/output"
            try call(recast, ["convert", work + "/source", output, "--to", layout, "--memory", memory, "--quiet"])
            let files = try FileManager.default.contentsOfDirectory(atPath: output).filter { $0.hasSuffix(".safetensors") }.sorted()
            try FileManager.default.createDirectory(atPath: work + "/original", withIntermediateDirectories: true)
            var bytes = 0
            for file in files {
                try FileManager.default.moveItem(atPath: output + "/" + file, toPath: work + "/original/" + file)
                bytes += (try FileManager.default.attributesOfItem(atPath: work + "/original/" + file)[.size] as? Int) ?? 0
            }
            var peak = 0
            let seconds = Turns.medians(
                rounds: rounds,
                [
                    {
                        try? FileManager.default.removeItem(atPath: work + "/copy")
                        _ = try? call("/bin/cp", ["-r", work + "/original", work + "/copy"])
                    },
                    {
                        try? FileManager.default.removeItem(atPath: output)
                        let text =
                            (try? call(recast, ["convert", work + "/source", output, "--to", layout, "--memory", memory, "--json", "--quiet"])) ?? ""
                        if let report = try? JSONValue(parsing: Array(text.utf8)) { peak = max(peak, report["peak_rss"]?.int ?? 0) }
                    },
                ])
            let rate = Double(bytes) / 1e9
            print(
                "fp8-block -> \(layout), \(ByteSize(bytes)) written and audited: recast \((rate / seconds[1]).rounded(to: 2)) GB/s, cp \((rate / seconds[0]).rounded(to: 2)) GB/s, time ratio to cp \((seconds[1] / seconds[0]).rounded(to: 2)); peak memory \(ByteSize(peak)) with --memory \(memory)"
            )
            for name in ["output", "original", "copy"] { try? FileManager.default.removeItem(atPath: work + "/" + name) }
        }
    }

    @discardableResult
    private func call(_ path: String, _ arguments: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw CleanExit.message("\(path) failed with \(process.terminationStatus)") }
        return String(decoding: output, as: UTF8.self)
    }

    /// Experts of the full-size model, 2048 x 7168 in FP8, in shards of 16.
    private func makeCheckpoint(_ path: String) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        let shape = MatrixShape(rows: 2048, columns: 7168)
        guard let layout = LayoutRegistry.target(named: "fp8-block")?.layout else { throw CleanExit.message("there is no fp8-block") }
        let count = max(1, size << 20 / shape.count)
        var state: UInt64 = 1
        let codes = (0..<shape.count).map { _ -> UInt8 in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float8E4M3(rounding: (Float(state >> 40) / Float(1 << 24) - 0.5) * 800).bits
        }
        for shard in 0..<ceilingDivide(count, 16) {
            let experts = shard * 16..<min(count, (shard + 1) * 16)
            let declarations = experts.flatMap { expert in
                layout.parts(of: shape).map {
                    TensorDeclaration(name: "model.layers.0.mlp.experts.\(expert).up_proj.\($0.leaf)", type: $0.type, shape: $0.shape)
                }
            }
            guard let place = SafetensorsHeader.layout(declarations, metadata: []) else { continue }
            let file = try PositionedFile.openForWriting(path + "/model-\(shard).safetensors", truncate: true)
            try file.resize(to: place.size)
            try file.write(place.header, at: 0)
            for (declaration, offset) in zip(declarations, place.offsets) {
                if declaration.type == .f8E4M3 {
                    try file.write(codes, at: offset)
                } else {
                    let scales = [Float](repeating: 1.1e-4, count: declaration.shape.reduce(1, *))
                    try scales.withUnsafeBytes { try file.write($0, at: offset) }
                }
            }
        }
    }
}
