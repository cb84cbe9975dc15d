extension Sequence<UInt8> {
    /// Two small digits a byte: how digests are written.
    package var hexadecimal: String {
        var text = ""
        text.reserveCapacity(2 * underestimatedCount)
        for byte in self { text += (byte < 16 ? "0" : "") + String(byte, radix: 16) }
        return text
    }
}
