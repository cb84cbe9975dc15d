import CKernels

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// What a file system can do, found out by doing it with a small file that is removed again.
package struct FileSystemProbe: Sendable {
    /// `ext4`, `nfs`, `lustre`, ...; the number of the type where it is not known here.
    package var type: String
    /// Bytes that this user can still write.
    package var free: Int?
    /// A second opening of a file is told that the first has locked it.
    package var locks = false
    /// What was written is durable when the call returns.
    package var synchronizes = false
    /// Parts that were never written take no room, and can be told from zeros.
    package var holes = false
    /// A file can share another's blocks.
    package var clones = false
    /// The kernel copies between files by itself.
    package var copies = false

    /// - Parameter directory: exists; a file is made in it.
    /// - Throws: `FileFailure` if none can be made.
    package init(_ directory: String) throws {
        type = Self.type(of: directory)
        free = FileTree.freeSpace(directory)
        let path = FileTree.path(directory, ".recast-doctor-\(getpid())")
        defer {
            try? FileTree.remove(path)
            try? FileTree.remove(path + ".copy")
        }
        let file = try PositionedFile.openForWriting(path, truncate: true)
        try file.write([UInt8](repeating: 1, count: 4096), at: 0)
        let wasUnavailable = Durability.wasUnavailable
        try file.synchronize()
        synchronizes = !Durability.wasUnavailable || wasUnavailable
        if try file.tryLock() == .taken {
            locks = try PositionedFile.openForReading(path).tryLock() == .busy
            file.unlock()
        }
        let copy = try PositionedFile.openForWriting(path + ".copy", truncate: true)
        clones = file.clone(to: copy)
        if !clones { copies = file.copy(4096, at: 0, to: copy, at: 0) != nil } else { copies = true }
        try file.resize(to: 1 << 20)
        try file.write([UInt8](repeating: 1, count: 4096), at: (1 << 20) - 4096)
        holes = file.isHole(1 << 16..<1 << 17)
    }

    /// Whether parts of a file can be given back to the file system of a directory, found out with a file that has no name any more. One that
    /// a kill has left is taken and removed by the next.
    package static func canFreeParts(in directory: String) throws -> Bool {
        let path = FileTree.path(directory, ".recast-probe")
        let file = try PositionedFile.openForWriting(path, truncate: true)
        try FileTree.remove(path)
        try FileTree.synchronizeDirectory(directory)
        try file.write([UInt8](repeating: 1, count: 1 << 16), at: 0)
        do { try file.free(0..<1 << 15) } catch { return false }
        return true
    }

    private static func type(of path: String) -> String {
        // linux/magic.h, and Lustre's, ZFS' and GPFS' own.
        let names: [UInt32: String] = [
            0xEF53: "ext4", 0x5846_5342: "xfs", 0x9123_683E: "btrfs", 0x0102_1994: "tmpfs", 0x6969: "nfs", 0x794C_7630: "overlay",
            0x0BD0_0BD0: "lustre", 0x6573_5546: "fuse", 0x2FC1_2FC1: "zfs", 0xFF53_4D42: "cifs", 0xFE53_4D42: "smb2", 0x0102_1997: "9p",
            0x4750_4653: "gpfs", 0x00C3_6400: "ceph", 0xF2F5_2010: "f2fs", 0x8584_58F6: "ramfs", 0x6A65_6A63: "virtiofs",
        ]
        let number = ck_file_system_type(path)
        return number == 0 ? "unknown" : names[number] ?? "type 0x" + String(number, radix: 16)
    }
}
