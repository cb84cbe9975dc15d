import Crypto
import Runtime

/// SHA-256 in hexadecimal.
package enum Digest {
    package static func of(_ bytes: [UInt8]) -> String { SHA256.hash(data: bytes).hexadecimal }

    package static func of(_ text: String) -> String { of(Array(text.utf8)) }
}
