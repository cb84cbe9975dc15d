/// Zip files of stored entries, for archives that no writer would make.
package enum ZipBuilder {
    package static func zip(_ entries: [(name: String, content: [UInt8])]) -> [UInt8] {
        var file: [UInt8] = []
        var directory: [UInt8] = []
        for entry in entries {
            let name = Array(entry.name.utf8)
            var common = number(20, 2)
            common += number(0, 8)
            common += number(Int(checksum(entry.content)), 4)
            common += number(entry.content.count, 4)
            common += number(entry.content.count, 4)
            common += number(name.count, 2)
            common += number(0, 2)
            directory += number(0x0201_4B50, 4)
            directory += number(20, 2)
            directory += common
            directory += number(0, 10)
            directory += number(file.count, 4)
            directory += name
            file += number(0x0403_4B50, 4)
            file += common
            file += name
            file += entry.content
        }
        var end = number(0x0605_4B50, 4)
        end += number(0, 4)
        end += number(entries.count, 2)
        end += number(entries.count, 2)
        end += number(directory.count, 4)
        end += number(file.count, 4)
        end += number(0, 2)
        return file + directory + end
    }

    private static func number(_ value: Int, _ size: Int) -> [UInt8] { (0..<size).map { UInt8(truncatingIfNeeded: $0 < 8 ? value >> (8 * $0) : 0) } }

    /// CRC-32, bit by bit.
    private static func checksum(_ bytes: [UInt8]) -> UInt32 {
        var sum = ~UInt32(0)
        for byte in bytes {
            sum ^= UInt32(byte)
            for _ in 0..<8 { sum = sum & 1 == 1 ? sum >> 1 ^ 0xEDB8_8320 : sum >> 1 }
        }
        return ~sum
    }
}
