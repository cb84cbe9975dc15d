import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// What is known of the file systems' durability.
package enum Durability {
    private static let missing = Atomic<Bool>(false)

    /// Whether some file system had no fsync, so that what was written may be lost with the power.
    package static var wasUnavailable: Bool { missing.load(ordering: .relaxed) }

    /// Whether an error says that a file system has no fsync (FUSE and object mounts), and not that it failed.
    static func isUnavailable(_ error: Int32) -> Bool {
        guard [EINVAL, EROFS, ENOSYS, EOPNOTSUPP, ENOTSUP].contains(error) else { return false }
        missing.store(true, ordering: .relaxed)
        return true
    }
}
