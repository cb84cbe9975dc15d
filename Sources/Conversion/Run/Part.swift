/// One of the parts that a conversion is divided into, so that machines which see one file system share it. A part writes and audits whole
/// files of its own; `recast finish` joins what all have made.
public struct Part: Sendable, Equatable {
    /// From 1.
    public let number: Int
    /// How many there are.
    public let count: Int

    /// The most parts that a conversion is divided into.
    public static let limit = 65536

    /// - Throws: ``ConversionFailure`` if there is no such part.
    public init(_ number: Int, of count: Int) throws(ConversionFailure) {
        guard (1...Self.limit).contains(count) else { throw .usage("a conversion has 1 to \(Self.limit) parts, not \(count)") }
        guard (1...count).contains(number) else { throw .usage("there is no part \(number) of \(count); the first is 1") }
        self.number = number
        self.count = count
    }

    /// Of its folder in the working directory.
    var name: String { "part-\(number)-of-\(count)" }

    /// The shards of this part: the largest first, each to the part that has least, so that every part writes about as many bytes. The same on
    /// every machine.
    package func shards(of plan: ConversionPlan) -> Set<Int> { Self.shares(of: plan, count: count)[number] ?? [] }

    /// Those of every part that has any, by its number.
    static func shares(of plan: ConversionPlan, count: Int) -> [Int: Set<Int>] {
        var sizes = [Int](repeating: 0, count: min(count, plan.shards.count))
        var shares: [Int: Set<Int>] = [:]
        let order = plan.shards.indices.sorted { (plan.shards[$1].size, $0) < (plan.shards[$0].size, $1) }
        for shard in order {
            var least = 0
            for part in sizes.indices where sizes[part] < sizes[least] { least = part }
            // An empty file counts too: where there are parts enough, each has one.
            sizes[least] += max(1, plan.shards[shard].size)
            shares[least + 1, default: []].insert(shard)
        }
        return shares
    }
}
