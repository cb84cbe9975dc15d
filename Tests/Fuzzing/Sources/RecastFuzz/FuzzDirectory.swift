import Foundation
import Recast

/// Where inputs lie as files: readers take paths. Put it in memory (`RECAST_FUZZ_DIRECTORY`); each process has a part of its own.
enum FuzzDirectory {
    static let path: String = {
        let parent = ProcessInfo.processInfo.environment["RECAST_FUZZ_DIRECTORY"] ?? NSTemporaryDirectory()
        let path = FileTree.path(parent, "recast-fuzz-\(getpid())")
        prepare { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
        return path
    }()

    /// A directory inside that is there and empty.
    static func empty(_ name: String) -> String {
        let path = FileTree.path(Self.path, name)
        prepare {
            if try FileTree.entry(path) != nil { try FileManager.default.removeItem(atPath: path) }
            try FileTree.createDirectory(path)
        }
        return path
    }

    static func remove(_ path: String) {
        prepare { if try FileTree.entry(path) != nil { try FileManager.default.removeItem(atPath: path) } }
    }

    static func write(_ bytes: [UInt8], to path: String) {
        prepare { try PositionedFile.openForWriting(path, truncate: true).write(bytes, at: 0) }
    }

    /// What must not fail whatever the input is.
    static func prepare<Result>(_ body: () throws -> Result) -> Result {
        do { return try body() } catch { fatalError("cannot prepare the input: \(error)") }
    }
}
