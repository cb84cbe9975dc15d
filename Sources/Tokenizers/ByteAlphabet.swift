/// One printable character for each byte, in which byte-level BPE writes its tokens (openai/gpt-2:src/encoder.py, bytes_to_unicode): printable Latin-1
/// bytes stand for themselves, the others for the code points from U+0100 on.
package enum ByteAlphabet {
    private static let bytes: [Unicode.Scalar: UInt8] = {
        var table: [Unicode.Scalar: UInt8] = [:]
        var next: UInt32 = 0x100
        for byte in UInt8.min...UInt8.max {
            switch byte {
            case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: table[Unicode.Scalar(byte)] = byte
            default:
                if let scalar = Unicode.Scalar(next) { table[scalar] = byte }
                next += 1
            }
        }
        return table
    }()

    /// The bytes that a text of the alphabet stands for; nil if it is empty or holds something else.
    package static func bytes(_ text: String) -> [UInt8]? {
        var found: [UInt8] = []
        for scalar in text.unicodeScalars {
            guard let byte = bytes[scalar] else { return nil }
            found.append(byte)
        }
        return found.isEmpty ? nil : found
    }
}
