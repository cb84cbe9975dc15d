import Foundation

/// Parts of URLs, as texts: what a server signed must not be written in another way.
package enum URLText {
    /// Scheme, host and port; nil if there is no host.
    package static func origin(_ url: String) -> String? {
        guard let scheme = url.range(of: "://") else { return nil }
        let authority = url[scheme.upperBound...].prefix { $0 != "/" && $0 != "?" && $0 != "#" }
        let host = authority.split(separator: "@").last.map { $0.lowercased() } ?? ""
        guard !host.isEmpty else { return nil }
        let name = url[..<scheme.lowerBound].lowercased()
        let usual = name == "https" ? ":443" : ":80"
        return name + "://" + (host.hasSuffix(usual) ? String(host.dropLast(usual.count)) : host)
    }

    /// Where a redirect from `url` leads.
    package static func joined(_ url: String, _ location: String) -> String? {
        let location = legal(location)
        if location.prefixMatch(of: /[A-Za-z][A-Za-z0-9+.-]*:\/\//) != nil { return location }
        guard let origin = origin(url) else { return nil }
        if location.hasPrefix("//") { return origin.prefix { $0 != ":" } + ":" + location }
        if location.hasPrefix("/") { return origin + location }
        let path = url.prefix { $0 != "?" && $0 != "#" }
        guard let slash = path.lastIndex(of: "/"), path[..<slash].count > origin.count - 1 else { return origin + "/" + location }
        return path[...slash] + location
    }

    /// A URL as a server sent it with what may not stand in one as `%XX`: one such character would have all others encoded anew, and a signature
    /// would not hold.
    static func legal(_ url: String) -> String {
        let allowed = Set("!#$%&'()*+,-./:;=?@_~".utf8)
        guard !url.utf8.allSatisfy({ allowed.contains($0) || isAlphanumeric($0) }) else { return url }
        return url.utf8.reduce(into: "") { text, byte in
            if allowed.contains(byte) || isAlphanumeric(byte) {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }

    /// All but letters, digits and `-._~` as `%XX`; slashes too unless they are kept.
    package static func encoded(_ text: String, keepingSlashes: Bool = false) -> String {
        var result = ""
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"):
                result.unicodeScalars.append(Unicode.Scalar(byte))
            case UInt8(ascii: "/") where keepingSlashes: result += "/"
            default: result += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return result
    }

    /// A parameter of a URL's query, decoded.
    package static func parameter(_ name: String, of url: String) -> String? {
        guard let query = url.split(separator: "?", maxSplits: 1).dropFirst().first else { return nil }
        for pair in query.prefix(while: { $0 != "#" }).split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1)
            if parts.count == 2, parts[0] == name { return parts[1].removingPercentEncoding }
        }
        return nil
    }

    /// When a signed URL ceases to be one: CloudFront's `Expires`, or S3's `X-Amz-Date` and `X-Amz-Expires`.
    package static func expiry(of url: String) -> Date? {
        if let text = parameter("Expires", of: url), let seconds = Double(text), seconds.isFinite { return Date(timeIntervalSince1970: seconds) }
        guard let text = parameter("X-Amz-Date", of: url), let span = parameter("X-Amz-Expires", of: url).flatMap(Double.init), span.isFinite else {
            return nil
        }
        let format = DateFormatter()
        format.locale = Locale(identifier: "en_US_POSIX")
        format.timeZone = TimeZone(identifier: "GMT")
        format.dateFormat = "yyyyMMdd'T'HHmmss'Z'"
        return format.date(from: text)?.addingTimeInterval(span)
    }
}
