import Foundation

/// One build holds every reader: `RECAST_FUZZ` says which one this process feeds.
private let reader: FuzzReader = {
    let name = ProcessInfo.processInfo.environment["RECAST_FUZZ"] ?? ""
    guard let reader = FuzzReader.all.first(where: { $0.name == name }) else {
        FileHandle.standardError.write(Data("RECAST_FUZZ must be one of: \(FuzzReader.all.map(\.name).joined(separator: " "))\n".utf8))
        exit(64)
    }
    return reader
}()

@_cdecl("LLVMFuzzerInitialize")
public func fuzzerInitialize(_ count: UnsafeMutableRawPointer?, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    signal(SIGPIPE, SIG_IGN)
    _ = reader
    return 0
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzerTestOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: start, count: count))
    reader.read(FuzzInput(bytes))
    return 0
}
