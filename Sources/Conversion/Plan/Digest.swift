import Crypto

/// SHA-256 in hexadecimal.
package enum Digest {
    static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        var text = ""
        text.reserveCapacity(64)
        for byte in bytes {
            let digits = String(byte, radix: 16)
            text += digits.count == 1 ? "0" + digits : digits
        }
        return text
    }

    package static func of(_ bytes: [UInt8]) -> String { hexadecimal(SHA256.hash(data: bytes)) }

    package static func of(_ text: String) -> String { of(Array(text.utf8)) }
}
