/// Known names that somebody may have meant.
enum NearNames {
    /// Those that begin as `word` does, or else those that differ in few letters, at most five.
    static func of(_ word: String, among names: [String]) -> [String] {
        let word = plain(word)
        guard !word.isEmpty else { return [] }
        let longer = names.filter { plain($0).hasPrefix(word) }
        if !longer.isEmpty { return Array(longer.prefix(5)) }
        let near = names.map { (name: $0, distance: distance(word, plain($0))) }.filter { $0.distance <= max(1, word.count / 4) }
        return near.sorted { ($0.distance, $0.name) < ($1.distance, $1.name) }.prefix(5).map(\.name)
    }

    /// Without case and without what joins words.
    private static func plain(_ word: String) -> String { word.lowercased().filter { $0 != "-" && $0 != "_" && $0 != " " } }

    /// Letters to insert, remove or replace (V. I. Levenshtein, 1966).
    private static func distance(_ a: String, _ b: String) -> Int {
        let (a, b) = (Array(a.prefix(64)), Array(b.prefix(64)))
        var row = Array(0...b.count)
        for i in a.indices {
            var corner = row[0]
            row[0] = i + 1
            for j in b.indices {
                let above = row[j + 1]
                row[j + 1] = min(above + 1, row[j] + 1, corner + (a[i] == b[j] ? 0 : 1))
                corner = above
            }
        }
        return row[b.count]
    }
}
