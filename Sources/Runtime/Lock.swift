#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// A value that one thread at a time works with.
///
/// The system's own lock: the thread sanitizer sees who waited for whom, which it does not where `Synchronization.Mutex` waits inside its library.
package final class Lock<Value>: @unchecked Sendable {
    // Invariant: `value` is touched between lock and unlock only, and the mutex stays where it was made.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private var value: Value

    package init(_ value: sending Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    package func withLock<Result, Thrown: Error>(_ body: (inout Value) throws(Thrown) -> Result) throws(Thrown) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body(&value)
    }
}
