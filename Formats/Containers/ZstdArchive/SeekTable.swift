import Tensors

/// The seek table at the end of a seekable zstd file (facebook/zstd:contrib/seekable_format/zstd_seekable_compression_format.md), and
/// before it, where byte planes are grouped, our own skippable frame that says so.
struct SeekTable: Sendable {
    struct Frame: Sendable, Equatable {
        var compressed: Int
        var restored: Int
    }

    static let footerMagic: UInt32 = 0x8F92_EAB1
    static let tableMagic = ZstdFrame.skippableMagic | 0xE
    /// Frame type and the first word of its content: "RCBP", Recast byte planes.
    static let planesMagic = ZstdFrame.skippableMagic | 0xB
    static let planesMark: UInt32 = 0x5042_4352
    static let footerSize = 9
    static let frameLimit = 0x800_0000

    var frames: [Frame] = []
    /// For each frame how many byte planes begin with it; 0 for a frame whose content is as it is, and for later planes.
    var planes: [UInt8] = []

    init() {}

    mutating func append(compressed: Int, restored: Int, planes count: UInt8) {
        frames.append(Frame(compressed: compressed, restored: restored))
        planes.append(count)
    }

    /// Reads and checks the table of `file`: its frames fill the file from the first byte to the table.
    init(reading file: any ByteSource) throws {
        let size = try file.size()
        func damaged(_ reason: String) -> ContainerFailure { ContainerFailure(file.path, reason) }
        guard size >= 8 + Self.footerSize else { throw damaged("\(size) bytes are too few for a zstd archive; copy it again") }
        let footer = try file.read(Self.footerSize, at: size - Self.footerSize)
        guard footer.count == Self.footerSize, footer.word(at: 5) == Self.footerMagic else {
            throw damaged("there is no seek table at the end, so no tensor can be found; restore the file with `zstd -d` and convert that")
        }
        let count = Int(footer.word(at: 0))
        let entrySize = footer[4] & 0x80 != 0 ? 12 : 8
        let tableSize = 8 + count * entrySize + Self.footerSize
        guard footer[4] & 0x7C == 0, count <= Self.frameLimit, tableSize <= size else {
            throw damaged("the seek table promises \(count) frames, more than fit; the archive is damaged")
        }
        let table = try file.read(tableSize, at: size - tableSize)
        guard table.count == tableSize, table.word(at: 0) == Self.tableMagic, Int(table.word(at: 4)) == tableSize - 8 else {
            throw damaged("the seek table's own frame is damaged; copy the archive again")
        }
        var end = 0
        frames.reserveCapacity(count)
        for index in 0..<count {
            let place = 8 + index * entrySize
            let frame = Frame(compressed: Int(table.word(at: place)), restored: Int(table.word(at: place + 4)))
            frames.append(frame)
            end += frame.compressed
        }
        planes = [UInt8](repeating: 0, count: count)
        let gap = size - tableSize - end
        guard gap >= 0 else { throw damaged("the frames of the seek table are larger than the file; the archive is damaged") }
        if gap > 0 { try readPlanes(of: file, at: end, gap) }
    }

    private mutating func readPlanes(of file: any ByteSource, at offset: Int, _ size: Int) throws {
        guard size == 12 + frames.count else {
            throw ContainerFailure(file.path, "\(size) bytes between the last frame and the seek table are not accounted for; the archive is damaged")
        }
        let frame = try file.read(size, at: offset)
        guard frame.count == size, frame.word(at: 0) == Self.planesMagic, frame.word(at: 4) == UInt32(size - 8), frame.word(at: 8) == Self.planesMark
        else {
            throw ContainerFailure(
                file.path, "the frame before the seek table at byte \(offset) is not known here; was the archive made by a newer version?")
        }
        planes = Array(frame[12...])
        guard planes.allSatisfy({ [0, 2, 4].contains($0) }) else {
            throw ContainerFailure(file.path, "the table of byte planes at byte \(offset) holds other counts than 0, 2 and 4; the archive is damaged")
        }
    }

    /// The bytes that end a file with these frames.
    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        if planes.contains(where: { $0 > 0 }) {
            for word in [Self.planesMagic, UInt32(4 + planes.count), Self.planesMark] { bytes.append(word: word) }
            bytes += planes
        }
        bytes.append(word: Self.tableMagic)
        bytes.append(word: UInt32(frames.count * 8 + Self.footerSize))
        for frame in frames {
            bytes.append(word: UInt32(frame.compressed))
            bytes.append(word: UInt32(frame.restored))
        }
        bytes.append(word: UInt32(frames.count))
        bytes.append(0)
        bytes.append(word: Self.footerMagic)
        return bytes
    }
}
