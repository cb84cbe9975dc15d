/// One model in several files: which file is which part (llama.cpp:tools/gguf-split, gguf-py `add_shard_kv_data`). The first says what the model is, the
/// others only which part they are.
package enum LlamaCppSplit {
    private static let number = "split.no", count = "split.count", tensors = "split.tensors.count"

    private static func isOfModel(_ entry: GGUFEntry) -> Bool { ![number, count, tensors].contains(entry.key) }

    /// The keys of part `part`, the first being 0.
    static func entries(part: UInt16, of parts: UInt16, tensors: Int32) -> [GGUFEntry] {
        [GGUFEntry(number, .u16(part)), GGUFEntry(count, .u16(parts)), GGUFEntry(Self.tensors, .i32(tensors))]
    }

    /// What the files of one model say together: the first part's keys, without those of the split.
    /// - Parameter files: in any order, each with the number of its tensors.
    /// - Throws: ``DialectFailure`` if parts are missing, come twice, or are of something else.
    package static func joined(_ files: [(name: String, entries: [GGUFEntry], tensors: Int)]) throws(DialectFailure) -> [GGUFEntry] {
        guard let some = files.first(where: { !$0.entries.isEmpty }) else { return [] }
        func refuse(_ file: String, _ reason: String) -> DialectFailure { DialectFailure(tensor: file, reason: reason) }
        // What llama.cpp's tool joined says that it is of no parts.
        if files.count == 1, let parts = some.entries[count]?.int, parts == 0 || parts == 1 { return some.entries.filter(isOfModel) }
        guard files.contains(where: { $0.entries[count] != nil }) else {
            guard files.count == 1 else {
                throw refuse(some.name, "does not say which part of a model it is (\(count)), and there are \(files.count) files")
            }
            return some.entries
        }
        var first: [GGUFEntry]?
        var seen = Set<Int>()
        for file in files {
            guard let parts = file.entries[count]?.int, let part = file.entries[number]?.int, part >= 0, part < parts else {
                throw refuse(file.name, "does not say which part of a model it is (\(number), \(count))")
            }
            guard parts == files.count else {
                throw refuse(file.name, "is part \(part + 1) of \(parts), and there are \(files.count) files; give the directory that holds all")
            }
            guard seen.insert(part).inserted else { throw refuse(file.name, "is part \(part + 1) of \(parts), which another file is too") }
            let total = files.reduce(0) { $0 + $1.tensors }
            if let promised = file.entries[tensors]?.int, promised != total {
                throw refuse(file.name, "promises \(promised) tensors in all parts, which hold \(total)")
            }
            if part == 0 { first = file.entries.filter(isOfModel) }
        }
        return first ?? []
    }
}
