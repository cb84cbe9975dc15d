import Runtime
import StrictJSON
import Tensors

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Keeps a second run out of a working directory, from before anything in it is looked at until the end of the process.
///
/// A lock of the file system where there is one. Elsewhere (Lustre, NFS and FUSE mounts without flock) a lease: a file that only one
/// process can create, which says who that is and whose time is kept fresh while it works.
final class RunLock {
    private let directory: String
    private var file: PositionedFile?
    private var lease: PositionedFile?
    private var touched = 0.0
    /// Why there is a lease instead of a lock, in a sentence; nil where locks work.
    private(set) var notice: String?

    private static let lockName = "lock"
    static let leaseName = "lease"
    /// Files of the lock itself, which stay until the directory goes.
    static let names: Set<String> = [lockName, leaseName]
    /// A lease of another machine that has not been touched for so long belongs to nobody.
    private static let patience = 600_000_000_000
    private static let heartbeat = 30.0
    /// A lease that names nobody: its holder is between two calls, or was killed there.
    private static let patienceWithNobody = 5_000_000_000

    /// - Returns: nil if another process is at work in `directory`, which must exist.
    init?(_ directory: String) throws {
        self.directory = directory
        let path = FileTree.path(directory, Self.lockName)
        while true {
            let file = try PositionedFile.openForWriting(path)
            switch try file.tryLock() {
            case .busy: return nil
            case .unavailable(let reason):
                try takeLease()
                guard lease != nil else { return nil }
                notice = "the file system has no locks (\(reason)); a lease file keeps other runs out of \(directory)"
                return
            case .taken:
                // The run before may have removed the file between the two calls: then this is a lock on nothing.
                guard FileTree.identity(path) == (try file.identity()) else { continue }
                self.file = file
                return
            }
        }
    }

    /// Says that the run is alive; for leases, whose holders on other machines nobody can ask.
    func keepFresh() {
        guard let lease, ProcessFigures.now - touched > Self.heartbeat else { return }
        touched = ProcessFigures.now
        lease.touch()
    }

    /// Removes the lock's own files: the last thing before the directory goes.
    func remove() throws {
        try FileTree.remove(FileTree.path(directory, Self.leaseName))
        try FileTree.remove(FileTree.path(directory, Self.lockName))
    }

    /// Lets others in. A lease goes with its holder.
    func release() {
        if lease != nil { try? FileTree.remove(FileTree.path(directory, Self.leaseName)) }
        file?.unlock()
    }

    // MARK: Leases

    private func takeLease() throws {
        let path = FileTree.path(directory, Self.leaseName)
        for _ in 0..<2 {
            if let file = try PositionedFile.createNew(path) {
                do {
                    try file.write(Array((JSONValue.object(Self.holder).text(pretty: false) + "\n").utf8), at: 0)
                    try file.synchronize()
                } catch {
                    try? FileTree.remove(path)
                    throw error
                }
                lease = file
                touched = ProcessFigures.now
                return
            }
            guard try isStale(path) else { return }
            try FileTree.remove(path)
        }
    }

    /// Whether the process that a lease names is gone: it is no more on this machine, or the lease has not been touched for long by the
    /// file system's own clock.
    private func isStale(_ path: String) throws -> Bool {
        guard case .file? = try FileTree.entry(path) else { return true }
        let holder = try? JSONValue(parsing: FileTree.read(path, limit: 1 << 16))
        if let boot = holder?["boot"]?.string, boot == Self.boot, holder?["host"]?.string == Self.host,
            holder?["processes"]?.string == Self.processes, let process = holder?["pid"]?.int
        {
            return kill(pid_t(truncatingIfNeeded: process), 0) != 0 && errno == ESRCH
        }
        // Clocks of machines differ; two files of one file system have the same.
        let probe = FileTree.path(directory, Self.leaseName + ".probe")
        try FileTree.write([], to: probe)
        defer { try? FileTree.remove(probe) }
        guard let now = FileTree.modificationTime(probe), let then = FileTree.modificationTime(path) else { return false }
        return now - then > (holder == nil ? Self.patienceWithNobody : Self.patience)
    }

    private static var holder: JSONObject {
        [
            "host": .string(host), "pid": .int(Int(getpid())), "boot": .string(boot),
            "processes": .string(processes),
            "nonce": .string(String(UInt64.random(in: 0...(.max)), radix: 16)),
        ]
    }

    private static var host: String {
        var name = [CChar](repeating: 0, count: 256)
        _ = gethostname(&name, 255)
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Which processes this one can ask about: containers of one machine do not see each other's.
    private static var processes: String {
        var text = [CChar](repeating: 0, count: 256)
        let count = readlink("/proc/self/ns/pid", &text, 255)
        return String(decoding: text.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Changes whenever the machine starts; empty where the system does not tell.
    private static var boot: String {
        guard let bytes = try? PositionedFile.openForReading("/proc/sys/kernel/random/boot_id").read(64, at: 0) else { return "" }
        return String(decoding: bytes.prefix { $0 > 0x20 }, as: UTF8.self)
    }
}
