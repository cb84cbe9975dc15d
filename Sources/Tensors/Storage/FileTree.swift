import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Names and attributes of files: the few calls a converter needs, with typed errors.
package enum FileTree {
    package enum Entry: Sendable, Equatable { case file(size: Int), directory, other }

    /// What lies at `path` (links followed), or nil if nothing does.
    package static func entry(_ path: String) throws(FileFailure) -> Entry? {
        var status = stat()
        guard stat(path, &status) == 0 else {
            let reason = Errno(rawValue: errno)
            if reason == .noSuchFileOrDirectory || reason == .notDirectory { return nil }
            throw FileFailure(.inspect, path, reason: reason)
        }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return .file(size: Int(status.st_size))
        case S_IFDIR: return .directory
        default: return .other
        }
    }

    /// Device and inode of what lies at `path`; nil if nothing does.
    package static func identity(_ path: String) -> [UInt64]? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return [UInt64(truncatingIfNeeded: status.st_dev), UInt64(truncatingIfNeeded: status.st_ino)]
    }

    /// Whether `path` is a link whose target lies outside its directory. The cache of a hub is no other place: its snapshots are links to
    /// `../../blobs`, which may be links to the `blobs` of all repositories (huggingface_hub: file_download.py, _shared_blobs.py).
    package static func leavesDirectory(_ path: String) throws(FileFailure) -> Bool {
        var status = stat()
        guard lstat(path, &status) == 0 else { throw FileFailure(.inspect, path, reason: Errno(rawValue: errno)) }
        guard status.st_mode & S_IFMT == S_IFLNK else { return false }
        guard let target = real(path), let home = real(directory(of: path)) else { return true }
        let repository = directory(of: directory(of: home))
        let isOfHub = repository.split(separator: "/").last?.hasPrefix("models--") ?? false
        return !target.hasPrefix(home + "/") && !target.hasPrefix(repository + "/blobs/")
            && !(isOfHub && target.hasPrefix(directory(of: repository) + "/blobs/"))
    }

    /// The shortest beginning of a path that is a link; nil if it goes through none.
    package static func firstLink(in path: String) throws(FileFailure) -> String? {
        var end = path.startIndex
        while end < path.endIndex {
            end = path[path.index(after: end)...].firstIndex(of: "/") ?? path.endIndex
            var status = stat()
            let part = String(path[..<end])
            guard lstat(part, &status) == 0 else { throw FileFailure(.inspect, part, reason: Errno(rawValue: errno)) }
            if status.st_mode & S_IFMT == S_IFLNK { return part }
        }
        return nil
    }

    /// The name of the file behind a path's links if it is a hash, as the files of a hub's cache are called.
    static func hashName(_ path: String) -> String? {
        guard let name = real(path)?.split(separator: "/").last, name.utf8.count == 40 || name.utf8.count == 64, name.allSatisfy(\.isHexDigit) else {
            return nil
        }
        return String(name)
    }

    /// What a path stands for once all links have been followed.
    private static func real(_ path: String) -> String? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        return String(cString: found)
    }

    /// The directory that a path's last name is in.
    package static func directory(of path: String) -> String {
        path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    }

    /// The names in a directory, sorted by their bytes, without "." and "..".
    package static func list(_ path: String) throws(FileFailure) -> [String] {
        guard let stream = opendir(path) else { throw FileFailure(.list, path, reason: Errno(rawValue: errno)) }
        defer { closedir(stream) }
        var names: [String] = []
        while true {
            // Nil is the end, or an error that only errno tells from it.
            errno = 0
            guard let entry = readdir(stream) else {
                if errno != 0 { throw FileFailure(.list, path, reason: Errno(rawValue: errno)) }
                break
            }
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return inOrder(names)
    }

    /// Names by their bytes.
    package static func inOrder(_ names: some Sequence<String>) -> [String] {
        names.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
    }

    package static func createDirectory(_ path: String) throws(FileFailure) {
        guard mkdir(path, 0o777) != 0 else { return }
        let reason = Errno(rawValue: errno)
        if reason == .fileExists, case .directory? = try entry(path) { return }
        throw FileFailure(.create, path, reason: reason)
    }

    /// Makes a directory and those above it.
    package static func createDirectories(_ path: String) throws(FileFailure) {
        if try entry(path) == .directory { return }
        let above = directory(of: path)
        if above != path, above != "." { try createDirectories(above) }
        try createDirectory(path)
    }

    package static func rename(_ path: String, to target: String) throws(FileFailure) {
        guard systemRename(path, target) == 0 else { throw FileFailure(.rename, path, reason: Errno(rawValue: errno)) }
    }

    package static func remove(_ path: String) throws(FileFailure) {
        guard unlink(path) != 0, errno != ENOENT else { return }
        throw FileFailure(.remove, path, reason: Errno(rawValue: errno))
    }

    package static func removeDirectory(_ path: String) throws(FileFailure) {
        guard rmdir(path) != 0, errno != ENOENT else { return }
        throw FileFailure(.remove, path, reason: Errno(rawValue: errno))
    }

    /// A name in a directory.
    package static func path(_ directory: String, _ name: String) -> String { directory.hasSuffix("/") ? directory + name : directory + "/" + name }

    /// When the contents of what lies at `path` last changed, in nanoseconds; nil if nothing lies there.
    package static func modificationTime(_ path: String) -> Int? { (try? PositionedFile.openForReading(path))?.time }

    /// Makes renames and new names in a directory durable.
    package static func synchronizeDirectory(_ path: String) throws(FileFailure) {
        var descriptor = open(path, O_RDONLY)
        while descriptor < 0, errno == EINTR { descriptor = open(path, O_RDONLY) }
        guard descriptor >= 0 else { throw FileFailure(.synchronize, path, reason: Errno(rawValue: errno)) }
        defer { close(descriptor) }
        while fsync(descriptor) != 0 {
            if errno == EINTR { continue }
            if Durability.isUnavailable(errno) { return }
            throw FileFailure(.synchronize, path, reason: Errno(rawValue: errno))
        }
    }

    /// Bytes that an unprivileged process can still write on the file system that holds, or would hold, `path`.
    package static func freeSpace(_ path: String) -> Int? {
        var status = statvfs()
        var place = path
        while statvfs(place, &status) != 0 {
            guard errno == ENOENT, place != ".", place != "/" else { return nil }
            place = place.lastIndex(of: "/").map { $0 == place.startIndex ? "/" : String(place[..<$0]) } ?? "."
        }
        return Int(status.f_bavail) * Int(status.f_frsize)
    }

    /// Writes a whole small file: it appears complete or not at all. `temporary` is its name until then.
    package static func write(_ bytes: [UInt8], to path: String, temporary: String? = nil) throws {
        try write(to: path, temporary: temporary) { try $0.write(bytes, at: 0) }
    }

    /// Makes a file that appears complete or not at all: under its name, once `body` has written it.
    package static func write(to path: String, temporary: String? = nil, _ body: (PositionedFile) throws -> Void) throws {
        let temporary = temporary ?? path + ".partial"
        do {
            let file = try PositionedFile.openForWriting(temporary, truncate: true)
            try body(file)
            try file.synchronize()
        }
        try rename(temporary, to: path)
    }

    package static func read(_ path: String, limit: Int) throws -> [UInt8] {
        let file = try PositionedFile.openForReading(path)
        let size = try file.size()
        guard size <= limit else { throw FileFailure(.read, path, reason: .fileTooLarge) }
        return try file.read(size, at: 0)
    }
}

private func systemRename(_ from: String, _ to: String) -> Int32 { rename(from, to) }
