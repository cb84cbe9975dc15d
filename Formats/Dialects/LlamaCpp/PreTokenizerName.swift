import Crypto
import StrictJSON
import Tokenizers

/// How llama.cpp calls the way in which a tokenizer cuts text into pieces. Its loader knows the ways by name only, and its converter finds the name
/// by what becomes of one text (conversion/base.py: `get_vocab_base_pre`).
package enum PreTokenizerName {
    /// Spaces, digits, emoji, scripts, contractions: what the ways differ in. It is composed (NFC) as it stands.
    static let probe =
        "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\u{1F680} (normal) \u{1F636}\u{200D}\u{1F32B}\u{FE0F} (multiple emojis "
        + "concatenated) \u{2705} \u{1F999}\u{1F999} 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 \u{1780}\u{17B6}"
        + "\u{1793}\u{17CB}\u{178F}\u{17C2}\u{1796}\u{17B7}\u{179F}\u{17C1}\u{179F}\u{17A2}\u{17B6}\u{1785}\u{1F601} ?\u{6211}"
        + "\u{60F3}\u{5728}apple\u{5DE5}\u{4F5C}1314151\u{5929}\u{FF5E} ------======= \u{43D}\u{435}\u{449}\u{43E} \u{43D}\u{430} "
        + "\u{411}\u{44A}\u{43B}\u{433}\u{430}\u{440}\u{441}\u{43A}\u{438} ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told "
        + "he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"

    /// The name of a tokenizer's way.
    ///
    /// The hashes were taken with transformers 4, which puts the begin token before the text where `tokenizer_config.json` says so; transformers 5
    /// leaves it out for some classes, and the converter under it finds other names or none. What the file says comes first here, then the other forms.
    static func found(for tokenizer: JSONValue, _ special: SpecialTokens, addsBeginning: Bool?, addsEnd: Bool?) throws(DialectFailure) -> String {
        let forms = try forms(of: tokenizer, special, addsBeginning: addsBeginning, addsEnd: addsEnd)
        for form in forms {
            if let name = PreTokenizerTable.names[hash(form)] { return name }
        }
        throw DialectFailure(
            tensor: "tokenizer.json", reason: "llama.cpp has no name for its pre-tokenizer (hash \(hash(forms[0]))). \(advice(tokenizer))")
    }

    /// The probe's tokens in the forms that readers give them, for comparison with others.
    package static func forms(of tokenizer: JSONValue, tokenizerConfig: JSONValue?, config: JSONValue) throws -> [[Int]] {
        var special = SpecialTokens(tokenizer, tokenizerConfig?.object)
        try special.addNumbers(config)
        return try forms(
            of: tokenizer, special, addsBeginning: tokenizerConfig?["add_bos_token"]?.bool, addsEnd: tokenizerConfig?["add_eos_token"]?.bool)
    }

    private static func forms(
        of tokenizer: JSONValue, _ special: SpecialTokens, addsBeginning: Bool?, addsEnd: Bool?
    ) throws(DialectFailure) -> [[Int]] {
        let plain: [Int]
        do { plain = try Tokenizer(probed(tokenizer), path: "tokenizer.json").encode(probe) } catch {
            throw DialectFailure(
                tensor: "tokenizer.json",
                reason: "the name that llama.cpp has for the pre-tokenizer was not found, because \(part(error)). \(advice(tokenizer))")
        }
        let beginning = special.number("bos").map { [$0] } ?? [], end = special.number("eos").map { [$0] } ?? []
        var forms: [[Int]] = []
        if addsBeginning != nil || addsEnd != nil { forms.append((addsBeginning == true ? beginning : []) + plain + (addsEnd == true ? end : [])) }
        if let template = template(tokenizer, plain) { forms.append(template) }
        return forms + [plain, beginning + plain]
    }

    /// SHA-256 of a list of numbers as Python writes it.
    package static func hash(_ tokens: [Int]) -> String {
        let digest = SHA256.hash(data: Array("[\(tokens.map(String.init).joined(separator: ", "))]".utf8))
        return digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// The tokenizer as far as the probe meets it: composing leaves the probe as it is, and added tokens that do not occur in it find nothing.
    private static func probed(_ tokenizer: JSONValue) -> JSONValue {
        var object = tokenizer.object ?? [:]
        if composes(tokenizer["normalizer"]) { object["normalizer"] = .null }
        if let pre = tokenizer["pre_tokenizer"] { object["pre_tokenizer"] = compilable(PreTokenizerPattern.simplified(pre)) }
        object["added_tokens"] = .array((tokenizer["added_tokens"]?.array ?? []).filter { $0["content"]?.string.map(probe.contains) ?? true })
        return .object(object)
    }

    /// With ranges of characters as Swift compiles them.
    private static func compilable(_ step: JSONValue) -> JSONValue {
        guard var object = step.object else { return step }
        if let steps = step["pretokenizers"]?.array {
            object["pretokenizers"] = .array(steps.map(compilable))
        } else if let text = step["pattern"]?["Regex"]?.string {
            object["pattern"] = .object(["Regex": .string(compilable(text))])
        }
        return .object(object)
    }

    /// Swift refuses ranges that end in a character with another composed form, as the Kelvin sign: such ends are listed beside a shorter range.
    private static func compilable(_ text: String) -> String {
        func isEnd(_ scalar: Unicode.Scalar) -> Bool { (try? Regex("[\(scalar)-\(scalar)]")) != nil }
        let scalars = Array(text.unicodeScalars)
        var result = String.UnicodeScalarView()
        var place = 0
        while place < scalars.count {
            guard place + 2 < scalars.count, scalars[place + 1] == "-", scalars[place].value > 0x7F, scalars[place].value < scalars[place + 2].value,
                !isEnd(scalars[place]) || !isEnd(scalars[place + 2])
            else {
                result.append(scalars[place])
                place += 1
                continue
            }
            var (low, high) = (scalars[place], scalars[place + 2])
            var listed: [Unicode.Scalar] = []
            while low.value < high.value, !isEnd(low), let next = Unicode.Scalar(low.value + 1) {
                listed.append(low)
                low = next
            }
            while high.value > low.value, !isEnd(high), let next = Unicode.Scalar(high.value - 1) {
                listed.append(high)
                high = next
            }
            result.append(contentsOf: listed + (low == high ? [low] : [low, "-", high]))
            place += 3
        }
        return String(result)
    }

    private static func composes(_ normalizer: JSONValue?) -> Bool {
        switch normalizer?["type"]?.string {
        case "NFC": true
        case "Sequence": (normalizer?["normalizers"]?.array ?? []).allSatisfy(composes)
        default: false
        }
    }

    /// The probe between the tokens that the post-processor puts around a text.
    private static func template(_ tokenizer: JSONValue, _ plain: [Int]) -> [Int]? {
        guard let processor = tokenizer["post_processor"] else { return nil }
        for step in processor["processors"]?.array ?? [processor] where step["type"]?.string == "TemplateProcessing" {
            return (step["single"]?.array ?? []).flatMap { piece -> [Int] in
                guard let token = piece["SpecialToken"]?["id"]?.string else { return plain }
                return (step["special_tokens"]?[token]?["ids"]?.array ?? []).compactMap(\.int)
            }
        }
        return nil
    }

    private static func part(_ error: any Error) -> String {
        switch error {
        case TokenizerFailure.unsupported(_, let part): "\(part) is not known here"
        case TokenizerFailure.malformed(_, let reason): reason
        default: "\(error)"
        }
    }

    private static func advice(_ tokenizer: JSONValue) -> String {
        let names = PreTokenizerPattern.names(of: tokenizer)
        guard !names.isEmpty else {
            let usual = PreTokenizerPattern.known.compactMap(\.names.first).joined(separator: ", ")
            return "Give --pre-tokenizer NAME with the name of the tokenizer that it cuts like, as \(usual)"
        }
        return "Give --pre-tokenizer NAME; it cuts by the expressions of \(names.joined(separator: ", "))"
    }

    /// - Throws: if llama.cpp's loader would refuse the name.
    static func checked(_ name: String) throws(DialectFailure) -> String {
        guard !PreTokenizerTable.known.contains(name) else { return name }
        let near = PreTokenizerTable.known.filter { $0.hasPrefix(name.prefix(3)) }.sorted()
        throw DialectFailure(
            tensor: "--pre-tokenizer",
            reason: "llama.cpp knows no pre-tokenizer called \(name)" + (near.isEmpty ? "" : "; near are \(near.joined(separator: ", "))"))
    }
}
