import Tensors

/// The entries of a zip file, from its central directory (PKWARE's APPNOTE, sections 4.3 and 4.5), checked so that nothing in it
/// can lead outside the file, onto other entries or into a decompressor.
struct ZipDirectory: Sendable {
    struct Entry: Sendable, Equatable {
        var name: String
        /// First byte of the content.
        var offset: Int
        var byteCount: Int
        var checksum: UInt32
    }

    static let localMagic: UInt32 = 0x0403_4B50
    static let centralMagic: UInt32 = 0x0201_4B50
    static let endMagic: UInt32 = 0x0605_4B50
    static let end64Magic: UInt32 = 0x0606_4B50
    static let locator64Magic: UInt32 = 0x0706_4B50
    static let directoryLimit = 1 << 30

    /// In the order of their bytes.
    private(set) var entries: [Entry] = []

    private struct Place {
        var name: [UInt8]
        var header: Int
        var byteCount: Int
        var checksum: UInt32
    }

    init(reading file: any SourceFile) throws {
        let size = try file.size()
        let (count, start, length) = try Self.end(of: file, size)
        let directory = try file.read(length, at: start)
        guard directory.count == length else { throw Self.damaged(file, "its directory at byte \(start) is truncated") }
        var places: [Place] = []
        var at = 0
        for _ in 0..<count {
            guard at + 46 <= length, directory.word(at: at) == Self.centralMagic else {
                throw Self.damaged(file, "its directory has no entry at byte \(start + at) where one is promised")
            }
            let nameSize = directory.half(at: at + 28), extraSize = directory.half(at: at + 30), commentSize = directory.half(at: at + 32)
            let next = at + 46 + nameSize + extraSize + commentSize
            guard next <= length else { throw Self.damaged(file, "an entry of its directory at byte \(start + at) is longer than the directory") }
            places.append(try Self.place(directory, at, nameSize, extraSize, file))
            at = next
        }
        entries.reserveCapacity(places.count)
        var names = Set<String>()
        for place in places.sorted(by: { $0.header < $1.header }) {
            let entry = try Self.entry(place, file, size: start)
            guard names.insert(entry.name).inserted else { throw Self.damaged(file, "it has two entries called \"\(entry.name)\"") }
            if let last = entries.last, place.header < last.offset + last.byteCount {
                throw Self.damaged(file, "its entries \"\(last.name)\" and \"\(entry.name)\" share bytes, as zip bombs do")
            }
            entries.append(entry)
        }
    }

    private static func damaged(_ file: any SourceFile, _ reason: String) -> ContainerFailure {
        ContainerFailure(file.path, "not a zip file to trust: \(reason); save it again with torch.save, or get it from its source")
    }

    /// Finds the end record, which only a comment of at most 65,535 bytes may follow.
    private static func end(of file: any SourceFile, _ size: Int) throws -> (count: Int, start: Int, length: Int) {
        let tailSize = min(size, 22 + 0xFFFF)
        let tail = try file.read(tailSize, at: size - tailSize)
        guard tail.count == tailSize, tailSize >= 22,
            let at = (0...(tailSize - 22)).reversed().first(where: { tail.word(at: $0) == endMagic && $0 + 22 + tail.half(at: $0 + 20) == tailSize })
        else { throw damaged(file, "it has no directory at its end; the file is truncated or was never finished") }
        var count = tail.half(at: at + 10), length = Int(tail.word(at: at + 12)), start = Int(tail.word(at: at + 16))
        let place = size - tailSize + at
        var directoryEnd = place
        if count == 0xFFFF || length == 0xFFFF_FFFF || start == 0xFFFF_FFFF, place >= 20 {
            let locator = try file.read(20, at: place - 20)
            if locator.count == 20, locator.word(at: 0) == locator64Magic {
                let record = locator.long(at: 8)
                let end64 = record <= UInt64(size) ? try file.read(56, at: Int(record)) : []
                guard end64.count == 56, end64.word(at: 0) == end64Magic, end64.long(at: 32) <= 1 << 32, end64.long(at: 40) <= UInt64(size),
                    end64.long(at: 48) <= UInt64(size)
                else { throw damaged(file, "its 64-bit end record is not where it should be") }
                (count, length, start) = (Int(end64.long(at: 32)), Int(end64.long(at: 40)), Int(end64.long(at: 48)))
                directoryEnd = Int(record)
            }
        }
        guard length <= directoryLimit, start + length <= directoryEnd, count <= length / 46 else {
            throw damaged(file, "its directory of \(count) entries and \(length) bytes at byte \(start) does not fit")
        }
        return (count, start, length)
    }

    private static func place(_ directory: [UInt8], _ at: Int, _ nameSize: Int, _ extraSize: Int, _ file: any SourceFile) throws -> Place {
        let name = Array(directory[(at + 46)..<(at + 46 + nameSize)])
        let text = String(decoding: name, as: UTF8.self)
        guard !text.isEmpty, !text.hasPrefix("/"), !text.contains("\\"), !text.utf8.contains(0), !text.split(separator: "/").contains("..") else {
            throw damaged(file, "its entry \"\(text)\" has a name that leads outside the archive")
        }
        guard directory.half(at: at + 8) & 1 == 0 else { throw damaged(file, "its entry \"\(text)\" is encrypted") }
        guard directory.half(at: at + 10) == 0 else {
            throw damaged(file, "its entry \"\(text)\" is compressed (method \(directory.half(at: at + 10))), which torch.save never does")
        }
        var sizes = [UInt64(directory.word(at: at + 20)), UInt64(directory.word(at: at + 24)), UInt64(directory.word(at: at + 42))]
        // Numbers that need 64 bits follow in an extra field, in this order, each only if its short form is full.
        var field = at + 46 + nameSize
        let end = field + extraSize
        while field + 4 <= end {
            let fieldSize = directory.half(at: field + 2)
            guard field + 4 + fieldSize <= end else { break }
            if directory.half(at: field) == 1 {
                var value = field + 4
                for index in [1, 0, 2] where sizes[index] == 0xFFFF_FFFF && value + 8 <= field + 4 + fieldSize {
                    sizes[index] = directory.long(at: value)
                    value += 8
                }
            }
            field += 4 + fieldSize
        }
        guard sizes[0] == sizes[1], sizes.allSatisfy({ $0 < 1 << 62 }) else {
            throw damaged(file, "its entry \"\(text)\" has \(sizes[0]) stored bytes for \(sizes[1])")
        }
        return Place(name: name, header: Int(sizes[2]), byteCount: Int(sizes[1]), checksum: directory.word(at: at + 16))
    }

    private static func entry(_ place: Place, _ file: any SourceFile, size: Int) throws -> Entry {
        let text = String(decoding: place.name, as: UTF8.self)
        let header = place.header < size ? try file.read(30, at: place.header) : []
        guard header.count == 30, header.word(at: 0) == localMagic, header.half(at: 8) == 0 else {
            throw damaged(file, "its entry \"\(text)\" does not begin at byte \(place.header)")
        }
        let nameSize = header.half(at: 26)
        let offset = place.header + 30 + nameSize + header.half(at: 28)
        guard nameSize == place.name.count, try file.read(nameSize, at: place.header + 30) == place.name else {
            throw damaged(file, "its entry \"\(text)\" has another name in its own header")
        }
        guard place.byteCount <= size, offset <= size - place.byteCount else {
            throw damaged(file, "its entry \"\(text)\" of \(place.byteCount) bytes reaches into the directory")
        }
        return Entry(name: text, offset: offset, byteCount: place.byteCount, checksum: place.checksum)
    }
}
