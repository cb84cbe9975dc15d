/// The name of a source file once a conversion no longer needs it: its header and small tensors are left, its large tensors are holes.
///
/// The name keeps every reader from taking holes for values, and tells when the file had last changed before, by which a run that was stopped
/// knows its source again.
package struct ConsumedName: Sendable, Equatable {
    package static let infix = ".consumed-"

    /// What the file was called.
    package var original: String
    /// Its version before anything was freed.
    package var version: String

    package init(_ original: String, version: String) {
        self.original = original
        self.version = version
    }

    /// Nil for the name of any other file.
    package init?(parsing name: String) {
        guard let dash = name.lastIndex(of: "-") else { return nil }
        let head = name[...dash], version = name[name.index(after: dash)...]
        guard head.hasSuffix(Self.infix), head.utf8.count > Self.infix.utf8.count, !version.isEmpty,
            version.utf8.allSatisfy({ (0x30...0x39).contains($0) })
        else { return nil }
        self.init(String(head.dropLast(Self.infix.count)), version: String(version))
    }

    /// `model-00001-of-00163.safetensors.consumed-1732999999123456789`.
    package var text: String { original + Self.infix + version }

    /// When the file had last changed, as `touch -d @` takes it.
    package var seconds: String {
        let digits = String(repeating: "0", count: max(0, 10 - version.count)) + version
        return digits.dropLast(9) + "." + digits.suffix(9)
    }

    /// The names of consumed files in a directory, by what they were called. A file that is there again counts as restored.
    package static func among(_ names: [String]) -> [String: ConsumedName] {
        let present = Set(names)
        let found = names.compactMap { ConsumedName(parsing: $0) }.filter { !present.contains($0.original) }
        return Dictionary(found.map { ($0.original, $0) }) { first, _ in first }
    }
}

/// A directory of this machine in which consumed files go by the names and versions that they had. What is freed of them reads as zeros, so only
/// who knows that it needs nothing of that may look through it.
package struct ConsumedDirectory: SourceDirectory {
    private let base: LocalDirectory
    private let consumed: [String: ConsumedName]
    /// What is left of files that are there again, by their names.
    private let leftovers: [String: ConsumedName]

    package init(_ base: LocalDirectory) throws {
        self.base = base
        let names = try base.names()
        consumed = ConsumedName.among(names)
        let present = Set(names)
        leftovers = Dictionary(names.compactMap { ConsumedName(parsing: $0) }.filter { present.contains($0.original) }.map { ($0.original, $0) }) {
            $1
        }
    }

    package var path: String { base.path }
    package var address: String { base.address }
    package var modelName: String { base.modelName }
    package var notes: [String] { base.notes }
    package var isRemote: Bool { false }

    /// The consumed file that had a name; nil if it is whole.
    package func consumed(_ name: String) -> ConsumedName? { consumed[name] }

    /// What an earlier conversion has left of a file that is there; nil if there is nothing.
    package func leftover(of name: String) -> ConsumedName? { leftovers[name] }

    package func names() throws -> [String] {
        FileTree.inOrder(try base.names().filter { ConsumedName(parsing: $0) == nil } + consumed.keys)
    }

    package func entry(_ name: String) throws -> FileTree.Entry? { try base.entry(consumed[name]?.text ?? name) }

    package func open(_ name: String) throws -> any SourceFile {
        guard let consumed = consumed[name] else { return try base.open(name) }
        return KnownFile(try PositionedFile.openForReading(path(of: consumed.text)), version: consumed.version)
    }

    package func leaves(_ name: String) throws -> Bool { try base.leaves(consumed[name]?.text ?? name) }
}

/// A directory as it would be once ranges of its files were freed: they read as zeros.
package struct RemainingDirectory: SourceDirectory {
    private let base: any SourceDirectory
    private let freed: [String: [Range<Int>]]

    /// - Parameter freed: of each file, ascending.
    package init(_ base: any SourceDirectory, freed: [String: [Range<Int>]]) {
        self.base = base
        self.freed = freed
    }

    package var path: String { base.path }
    package var address: String { base.address }
    package var modelName: String { base.modelName }
    package var notes: [String] { base.notes }
    package var isRemote: Bool { base.isRemote }
    package func names() throws -> [String] { try base.names() }
    package func entry(_ name: String) throws -> FileTree.Entry? { try base.entry(name) }
    package func leaves(_ name: String) throws -> Bool { try base.leaves(name) }

    package func open(_ name: String) throws -> any SourceFile {
        let file = try base.open(name)
        guard let ranges = freed[name], !ranges.isEmpty else { return file }
        return RemainingFile(file: file, freed: ranges)
    }

    private struct RemainingFile: SourceFile {
        let file: any SourceFile
        let freed: [Range<Int>]

        var path: String { file.path }
        var files: [any SourceFile] { [self] }
        func version() throws -> String { try file.version() }
        func size() throws -> Int { try file.size() }
        func stored(_ count: Int, at offset: Int) -> (file: PositionedFile, offset: Int, count: Int)? { nil }

        func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws -> Int {
            let count = try file.read(into: buffer, at: offset)
            let whole = offset..<offset + count
            // They ascend: the first that ends behind the beginning, and those that begin before the end.
            var first = 0, last = freed.count
            while first < last {
                let middle = (first + last) / 2
                if freed[middle].upperBound <= offset { first = middle + 1 } else { last = middle }
            }
            for range in freed[first...].prefix(while: { $0.lowerBound < whole.upperBound }) {
                let overlap = range.clamped(to: whole)
                UnsafeMutableRawBufferPointer(rebasing: buffer[overlap.lowerBound - offset..<overlap.upperBound - offset])
                    .initializeMemory(as: UInt8.self, repeating: 0)
            }
            return count
        }
    }
}
