import StrictJSON

/// How a pre-tokenizer that llama.cpp knows by name reads in `tokenizer.json`: expressions of the models that the names come from.
struct PreTokenizerPattern: Sendable {
    /// The first is the usual one.
    let names: [String]
    /// Isolating expressions, one after another.
    let splits: [String]
    /// Whether `ByteLevel` cuts by GPT-2's expression besides.
    var cutsBytes = false
    /// Whether the text is composed first (NFC). llama.cpp does not do it.
    var composes = false
    /// Whether a piece that is a token is taken whole (src/llama-vocab.cpp: `ignore_merges`).
    var ignoresMerges = false

    static let known = [
        PreTokenizerPattern(
            names: ["deepseek-v3", "joyai-llm", "hunyuan-dense"],
            splits: ["\\p{N}{1,3}", "[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+", deepSeekWords]),
        PreTokenizerPattern(
            names: ["deepseek-llm"],
            splits: [
                "[\r\n]", "\\s?[" + casedLetters + "]+", "\\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+", "\\s+$",
                asianWords, "\\p{N}",
            ]),
        PreTokenizerPattern(names: ["deepseek-coder"], splits: ["[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", asianWords, "\\p{N}"]),
        PreTokenizerPattern(names: ["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"], splits: [words(digits: "")], composes: true),
        PreTokenizerPattern(names: ["qwen35"], splits: [qwen35Words], composes: true),
        PreTokenizerPattern(names: ["llama-bpe", "llama3", "llama-v3"], splits: [words(digits: "{1,3}")], ignoresMerges: true),
        PreTokenizerPattern(names: ["glm4", "glm5"], splits: [words(digits: "{1,3}")], ignoresMerges: true),
        PreTokenizerPattern(names: ["smaug-bpe", "dbrx"], splits: [words(digits: "{1,3}")]),
        PreTokenizerPattern(names: ["gpt-4o", "llama4", "kanana2"], splits: [caseWords(tail: "/", digits: "\\p{N}{1,3}")]),
        PreTokenizerPattern(names: ["minimax-m2"], splits: [caseWords(tail: "/", digits: "\\p{N}{1,3}")], composes: true),
        PreTokenizerPattern(names: ["kimi-k2"], splits: [kimiWords]),
        PreTokenizerPattern(names: ["gpt-2", "phi-2", "exaone4", "modern-bert"], splits: [], cutsBytes: true),
        // What its loader does where a file names nothing.
        PreTokenizerPattern(names: ["default"], splits: ["[\\p{P}\\$\\+<=>\\^~\\|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"]),
    ]

    static func named(_ name: String) -> PreTokenizerPattern? { known.first { $0.names.contains(name) } }

    // MARK: Expressions

    private static let gpt2 = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#

    private static let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

    /// GPT-4's, with runs of digits as the model has them.
    private static func words(digits: String) -> String {
        contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"# + digits + #"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
    }

    private static let qwen35Words =
        contractions + #"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#

    /// GPT-4o's, which begins a piece at a capital.
    /// - Parameter without: takes characters out of the letters' classes.
    private static func caseWords(tail: String, digits: String, without: String = "") -> String {
        let upper = #"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"# + without + "]"
        let lower = #"[\p{Ll}\p{Lm}\p{Lo}\p{M}"# + without + "]"
        let before = #"[^\r\n\p{L}\p{N}]?"#
        return before + upper + "*" + lower + "+" + contractions + "?|" + before + upper + "+" + lower + "*" + contractions + "?|" + digits
            + #"| ?[^\s\p{L}\p{N}]+[\r\n"# + tail + #"]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
    }

    /// moonshotai/Kimi-K2-Instruct:tokenization_kimi.py: GPT-4o's with Han characters apart.
    private static let kimiWords =
        #"[\p{Han}]+|"# + caseWords(tail: "", digits: "\\p{N}{1,3}", without: #"&&[^\p{Han}]"#)

    private static let deepSeekWords =
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
        + "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"

    private static let asianWords = "[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"

    /// Letters that have a case, as DeepSeek's first models list them.
    private static let casedLetters =
        "A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}\u{376}"
        + "\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}"
        + "\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}"
        + "\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}"
        + "\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}"
        + "\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}"
        + "\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}"
        + "\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}"
        + "\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}"
        + "\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}"
        + "\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}"

    // MARK: Reading and writing

    var preTokenizer: JSONValue {
        let bytes: JSONValue = .object([
            "type": .string("ByteLevel"), "add_prefix_space": .bool(false), "trim_offsets": .bool(true), "use_regex": .bool(cutsBytes),
        ])
        guard !splits.isEmpty else { return bytes }
        return .object(["type": .string("Sequence"), "pretokenizers": .array(splits.map(Self.split) + [bytes])])
    }

    static func split(_ expression: String) -> JSONValue {
        .object([
            "type": .string("Split"), "pattern": .object(["Regex": .string(expression)]), "behavior": .string("Isolated"), "invert": .bool(false),
        ])
    }

    /// Names whose expressions are those of a `tokenizer.json`.
    static func names(of tokenizer: JSONValue) -> [String] {
        guard let pre = tokenizer["pre_tokenizer"] else { return [] }
        let steps = simplified(pre)["pretokenizers"]?.array ?? [simplified(pre)]
        // Ends of lines are written as themselves or by letters, quotation marks with a stroke or without.
        func plain(_ expression: String) -> String {
            expression.replacing("\\r", with: "\r").replacing("\\n", with: "\n").replacing("\\\"", with: "\"")
        }
        let splits = steps.compactMap { $0["pattern"]?["Regex"]?.string }.map(plain)
        let cutsBytes = steps.contains { $0["type"]?.string == "ByteLevel" && $0["use_regex"]?.bool ?? true }
        let ignoresMerges = tokenizer["model"]?["ignore_merges"]?.bool ?? false
        return known.filter { $0.splits.map(plain) == splits && $0.cutsBytes == cutsBytes && $0.ignoresMerges == ignoresMerges }.compactMap(
            \.names.first)
    }

    /// The same cuts in fewer words: single digits, and what tiktoken's readers write as "all but the matches is removed", which is the same where the
    /// expression matches everything.
    static func simplified(_ step: JSONValue) -> JSONValue {
        guard var object = step.object else { return step }
        switch step["type"]?.string {
        case "Sequence":
            object["pretokenizers"] = .array((step["pretokenizers"]?.array ?? []).map(simplified))
            return .object(object)
        case "Digits" where step["individual_digits"]?.bool == true: return split(#"\p{N}"#)
        case "Split" where step["behavior"]?.string == "Removed" && step["invert"]?.bool == true:
            object["behavior"] = .string("Isolated")
            object["invert"] = .bool(false)
            return .object(object)
        default: return step
        }
    }
}
