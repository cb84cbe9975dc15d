import CKernels
import Runtime
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// A system call on a file that failed.
package struct FileFailure: Failure, Equatable {
    package enum Operation: String, Sendable {
        case open = "open", create = "create", read = "read", write = "write", synchronize = "flush", rename = "rename", list = "list"
        case inspect = "look up", remove = "remove", resize = "resize", lock = "lock", free = "free parts of"
    }

    package var operation: Operation
    package var path: String
    package var offset: Int?
    package var reason: Errno

    package init(_ operation: Operation, _ path: String, offset: Int? = nil, reason: Errno) {
        self.operation = operation
        self.path = path
        self.offset = offset
        self.reason = reason
    }

    /// - Parameter systemError: an `errno`; 0 where the system said nothing.
    package init(_ operation: Operation, _ path: String, systemError: Int32) {
        self.init(operation, path, reason: systemError == 0 ? .ioError : Errno(rawValue: systemError))
    }

    package var kind: FailureKind {
        switch (operation, reason) {
        case (.open, .noSuchFileOrDirectory), (.list, .noSuchFileOrDirectory), (.inspect, .noSuchFileOrDirectory),
            (.list, .notDirectory), (.open, .notDirectory), (.inspect, .notDirectory), (.open, .permissionDenied), (.list, .permissionDenied):
            .noInput
        case (.create, .noSpace), (.create, .diskQuotaExceeded): .inputOutput
        case (.create, _), (.lock, _): .cannotCreate
        default: .inputOutput
        }
    }

    package var description: String {
        let place = offset.map { " at byte \($0)" } ?? ""
        let advice =
            switch reason {
            case .noSpace, .diskQuotaExceeded: "; free some space and run the same command again to continue"
            case .permissionDenied, .notPermitted, .readOnlyFileSystem: "; check the permissions"
            default: ""
            }
        return "cannot \(operation.rawValue) \(path)\(place): \(reason)\(advice)"
    }
}

/// An open file that is read and written at given offsets, from any thread, without a shared position. Closed when released.
package final class PositionedFile: Sendable {
    package let path: String
    private let descriptor: FileDescriptor
    /// Whether pages of zeros are left as holes.
    private let isSparse: Bool

    private init(path: String, descriptor: FileDescriptor, isSparse: Bool = false) {
        self.path = path
        self.descriptor = descriptor
        self.isSparse = isSparse
    }

    deinit { try? descriptor.close() }

    package static func openForReading(_ path: String) throws(FileFailure) -> PositionedFile {
        try open(path, .open, .readOnly, [])
    }

    /// Opens what is there for reading and writing.
    package static func openForChanging(_ path: String) throws(FileFailure) -> PositionedFile { try open(path, .open, .readWrite, []) }

    /// Opens for reading and writing; creates the file if it is missing and keeps what is in it.
    /// - Parameter isSparse: leave pages of zeros as holes, where the file system can; the contents are the same.
    package static func openForWriting(_ path: String, truncate: Bool = false, isSparse: Bool = false) throws(FileFailure) -> PositionedFile {
        try open(path, .create, .readWrite, truncate ? [.create, .truncate] : [.create], isSparse: isSparse)
    }

    /// Creates a file that must not exist; nil if it does.
    package static func createNew(_ path: String) throws(FileFailure) -> PositionedFile? {
        do { return try open(path, .create, .readWrite, [.create, .exclusiveCreate]) } catch {
            if error.reason == .fileExists { return nil }
            throw error
        }
    }

    private static func open(
        _ path: String, _ operation: FileFailure.Operation, _ mode: FileDescriptor.AccessMode, _ options: FileDescriptor.OpenOptions,
        isSparse: Bool = false
    ) throws(FileFailure) -> PositionedFile {
        do {
            let descriptor = try FileDescriptor.open(
                FilePath(path), mode, options: options.union(.closeOnExec), permissions: [.ownerReadWrite, .groupRead, .otherRead])
            return PositionedFile(path: path, descriptor: descriptor, isSparse: isSparse)
        } catch {
            throw FileFailure(operation, path, reason: error as? Errno ?? .ioError)
        }
    }

    private func attempt<Result>(
        _ operation: FileFailure.Operation, offset: Int? = nil, _ body: () throws -> Result
    ) throws(FileFailure) -> Result {
        do { return try body() } catch { throw FileFailure(operation, path, offset: offset, reason: error as? Errno ?? .ioError) }
    }

    /// The current size; a directory or other non-file is an error.
    package func size() throws(FileFailure) -> Int {
        var status = stat()
        guard fstat(descriptor.rawValue, &status) == 0 else { throw FileFailure(.inspect, path, reason: Errno(rawValue: errno)) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw FileFailure(.open, path, reason: .isDirectory) }
        return Int(status.st_size)
    }

    var time: Int? { try? modificationTime() }

    /// When the contents last changed, in nanoseconds.
    package func modificationTime() throws(FileFailure) -> Int {
        var status = stat()
        guard fstat(descriptor.rawValue, &status) == 0 else { throw FileFailure(.inspect, path, reason: Errno(rawValue: errno)) }
        #if canImport(Darwin)
            return status.st_mtimespec.tv_sec * 1_000_000_000 + status.st_mtimespec.tv_nsec
        #else
            return status.st_mtim.tv_sec * 1_000_000_000 + status.st_mtim.tv_nsec
        #endif
    }

    /// Fills `buffer` from `offset`; returns how many bytes there were, fewer only at the end of the file.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(FileFailure) -> Int {
        var done = 0
        while done < buffer.count {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            let count = try attempt(.read, offset: offset + done) {
                try descriptor.read(fromAbsoluteOffset: Int64(offset + done), into: rest, retryOnInterrupt: true)
            }
            if count == 0 { break }
            done += count
        }
        return done
    }

    package func write(_ buffer: UnsafeRawBufferPointer, at offset: Int) throws(FileFailure) {
        guard isSparse else { return try writeAll(buffer, at: offset) }
        for (range, isZero) in SparseRuns(of: buffer, at: offset) {
            let piece = UnsafeRawBufferPointer(rebasing: buffer[range])
            if isZero { try writeZeros(piece, at: offset + range.lowerBound) } else { try writeAll(piece, at: offset + range.lowerBound) }
        }
    }

    /// Makes bytes of the file read as zeros: by leaving a hole alone, by making one of whole pages, or else by writing `zeros`.
    ///
    /// What other threads write beside these bytes in the same page stays: a hole is left only if there is one, and made only of pages that lie
    /// inside.
    private func writeZeros(_ zeros: UnsafeRawBufferPointer, at offset: Int) throws(FileFailure) {
        if isHole(offset..<offset + zeros.count) { return }
        let page = SparseRuns.page
        let first = (offset + page - 1) / page * page
        let pages = first..<max(first, (offset + zeros.count) / page * page)
        guard !pages.isEmpty, ck_punch_hole(descriptor.rawValue, Int64(pages.lowerBound), Int64(pages.count)) == 0 else {
            return try writeAll(zeros, at: offset)
        }
        try writeAll(UnsafeRawBufferPointer(rebasing: zeros[..<(pages.lowerBound - offset)]), at: offset)
        try writeAll(UnsafeRawBufferPointer(rebasing: zeros[(pages.upperBound - offset)...]), at: pages.upperBound)
    }

    private func writeAll(_ buffer: UnsafeRawBufferPointer, at offset: Int) throws(FileFailure) {
        var done = 0
        while done < buffer.count {
            let rest = UnsafeRawBufferPointer(rebasing: buffer[done...])
            done += try attempt(.write, offset: offset + done) { try descriptor.write(toAbsoluteOffset: Int64(offset + done), rest) }
        }
    }

    package func write(_ bytes: [UInt8], at offset: Int) throws(FileFailure) {
        try attempt(.write, offset: offset) { try bytes.withUnsafeBytes { try write($0, at: offset) } }
    }

    package func resize(to size: Int) throws(FileFailure) {
        try attempt(.resize) { try descriptor.resize(to: Int64(size), retryOnInterrupt: true) }
    }

    /// Returns when the contents are on the disk.
    package func synchronize() throws(FileFailure) {
        while fsync(descriptor.rawValue) != 0 {
            if errno == EINTR { continue }
            if Durability.isUnavailable(errno) { return }
            throw FileFailure(.synchronize, path, reason: Errno(rawValue: errno))
        }
    }

    /// What came of asking for a lock.
    package enum LockAnswer: Sendable, Equatable {
        case taken
        /// Another process holds it.
        case busy
        /// The file system has no locks (Lustre, NFS and FUSE mounts without them).
        case unavailable(Errno)
    }

    /// Asks for an exclusive advisory lock that ends with the process.
    package func tryLock() throws(FileFailure) -> LockAnswer {
        while flock(descriptor.rawValue, LOCK_EX | LOCK_NB) != 0 {
            let reason = Errno(rawValue: errno)
            switch reason {
            case .interrupted: continue
            case .wouldBlock, .resourceTemporarilyUnavailable: return .busy
            case .noFunction, .noLocks, .notSupportedOnSocket, .notSupported: return .unavailable(reason)
            default: throw FileFailure(.lock, path, reason: reason)
            }
        }
        return .taken
    }

    /// Device and inode of the open file.
    package func identity() throws(FileFailure) -> [UInt64] {
        var status = stat()
        guard fstat(descriptor.rawValue, &status) == 0 else { throw FileFailure(.inspect, path, reason: Errno(rawValue: errno)) }
        return [UInt64(truncatingIfNeeded: status.st_dev), UInt64(truncatingIfNeeded: status.st_ino)]
    }

    /// Whether some bytes inside the file were never written, so that they are zeros; false where the file system does not say.
    package func isHole(_ range: Range<Int>) -> Bool {
        !range.isEmpty && ck_is_hole(descriptor.rawValue, Int64(range.lowerBound), Int64(range.count)) != 0
    }

    /// Gives the pages that lie inside `range` back to the file system; they read as zeros, and the size stays.
    package func free(_ range: Range<Int>) throws(FileFailure) {
        let page = SparseRuns.page
        let first = (range.lowerBound + page - 1) / page * page
        let end = range.upperBound / page * page
        guard first < end else { return }
        while ck_punch_hole(descriptor.rawValue, Int64(first), Int64(end - first)) != 0 {
            if errno == EINTR { continue }
            throw FileFailure(.free, path, offset: first, reason: Errno(rawValue: errno))
        }
    }

    /// Bytes that the file takes on the disk, and how many names it has.
    package func allocation() throws(FileFailure) -> (bytes: Int, names: Int) {
        var status = stat()
        guard fstat(descriptor.rawValue, &status) == 0 else { throw FileFailure(.inspect, path, reason: Errno(rawValue: errno)) }
        return (Int(status.st_blocks) * 512, Int(status.st_nlink))
    }

    /// Sets the time of the last change to now, by the clock of whoever holds the file system.
    package func touch() { _ = futimens(descriptor.rawValue, nil) }

    package func unlock() { _ = flock(descriptor.rawValue, LOCK_UN) }

    /// Copies bytes inside the kernel (reflinked where the file system can); returns how many, or nil if it cannot here.
    package func copy(_ count: Int, at offset: Int, to target: PositionedFile, at targetOffset: Int) -> Int? {
        let copied = ck_copy_range(descriptor.rawValue, Int64(offset), target.descriptor.rawValue, Int64(targetOffset), count)
        return copied > 0 ? Int(copied) : nil
    }

    /// Makes `target` share this file's blocks until one of them changes, where the file system can; the contents are the same then.
    package func clone(to target: PositionedFile) -> Bool { ck_clone_file(descriptor.rawValue, target.descriptor.rawValue) == 0 }
}
