import Runtime
import Tensors

/// Why a conversion cannot start or cannot go on.
public enum ConversionFailure: Failure, Equatable {
    /// What was asked for does not fit together.
    case usage(String)
    /// A recipe cannot be read.
    case recipe(path: String, reason: String)
    /// Patterns of a recipe that match no weight.
    case unmatchedRules([String])
    /// Layouts that one config.json cannot describe together.
    case mixedConfigurations([String])
    /// Experts of one stack that would be stored differently.
    case mixedStack(String, [String])
    /// Layouts whose readers name tensors differently.
    case mixedDialects(String, String)
    /// A weight that would be rounded, and how many there are, though only exact ways were allowed.
    case notExact(weight: String, count: Int, reason: String)
    /// A file larger than can be addressed.
    case tooLarge(tensor: String)
    /// The working memory, in bytes, that a tile of a weight needs.
    case memory(needed: Int, weight: String, budget: Int)
    /// The destination is the source itself.
    case destinationIsSource(path: String)
    /// The destination holds something else.
    case destinationNotEmpty(path: String, reason: String)
    /// The destination holds something else, and files of the source have been freed.
    case notContinued(path: String, reason: String)
    /// Another run writes there.
    case destinationBusy(path: String)
    /// The output needs more bytes than are free.
    case noSpace(path: String, needed: Int, free: Int)
    /// A row of a weight that a layout cannot hold, as it is not finite.
    case notFinite(weight: String, row: Int, file: String)
    /// Values of the source that are not finite and would be carried.
    case carriesNotFinite(weight: String, count: Int, file: String)
    /// A row whose scales F16 cannot hold.
    case overflowsF16(weight: String, row: Int)
    /// A file that vanished while it was needed.
    case lost(String)
    /// A source file that was replaced or changed while it was converted.
    case changed(String)
    /// A weight of a source file that a conversion has consumed, needed once more.
    case consumed(file: String, weight: String)
    /// Bytes that differ from what was to be written, on reading back.
    case differs(weight: String, file: String, bytes: Int)
    /// A tensor whose digest is not the one that its file promises.
    case sourceDigest(tensor: String, file: String)
    /// Stopped; so many weights of all are done.
    case interrupted(done: Int, total: Int)
    /// Parts of a divided conversion that are missing or at work.
    case unfinishedParts([Int], of: Int, path: String)
    /// A layout that cannot be written.
    case unsupported(weight: String, layout: String)

    /// The exit status.
    public var kind: FailureKind {
        switch self {
        case .usage, .recipe, .unmatchedRules, .mixedConfigurations, .mixedStack, .mixedDialects, .notExact, .memory, .unsupported: .usage
        case .tooLarge, .notFinite, .carriesNotFinite, .overflowsF16, .sourceDigest, .consumed: .badData
        case .destinationIsSource, .destinationNotEmpty, .notContinued, .destinationBusy: .cannotCreate
        case .noSpace, .differs, .lost, .changed: .inputOutput
        case .interrupted, .unfinishedParts: .interrupted
        }
    }

    /// The sentence.
    public var description: String {
        switch self {
        case .usage(let text): text
        case .recipe(let path, let reason): "\(path): \(reason)"
        case .unmatchedRules(let rules):
            "recipe: the pattern \(rules.map { "\"\($0)\"" }.joined(separator: ", ")) matches no weight; look for a typing error, `recast inspect --tensors '*'` lists the names"
        case .mixedConfigurations(let names):
            "one quantization_config cannot describe \(names.joined(separator: " and ")) together; choose layouts of one family in the recipe"
        case .mixedStack(let module, let names):
            "\(module): the experts of a layer are one tensor here and cannot be \(names.joined(separator: " and ")) at once; let the recipe treat them alike"
        case .mixedDialects(let one, let other):
            "\(one) and \(other) are read by different programs, which name their tensors differently; choose layouts of one of them"
        case .notExact(let weight, let count, let reason):
            "--require-exact: \(weight): \(reason)\(count > 1 ? " (\(count) weights)" : ""); leave the option out to allow it"
        case .tooLarge(let tensor): "the shard that would hold \(tensor) is larger than can be addressed"
        case .memory(let needed, let weight, let budget):
            "--memory \(ByteSize(budget)) is too little: a tile of \(weight) needs \(ByteSize(needed)) of working memory; give at least that"
        case .destinationIsSource(let path): "\(path): the destination is the source itself, which is never written over; choose another directory"
        case .destinationNotEmpty(let path, let reason): "\(path): \(reason); choose another destination or give --overwrite"
        case .notContinued(let path, let reason):
            "\(path): \(reason). Files of the source have been freed, and what was made of them may be there: remove nothing. A file that was restored needs its old time of modification, too"
        case .destinationBusy(let path): "\(path): another recast is writing here; wait for it or choose another directory"
        case .noSpace(let path, let needed, let free):
            "\(path): the output needs \(ByteSize(needed)) but only \(ByteSize(free)) are free; nothing was written"
        case .notFinite(let weight, let row, let file):
            "\(file): weight \(weight) holds a NaN or an infinity near row \(row), which no quantized layout can represent; the source is damaged or not a weight"
        case .carriesNotFinite(let weight, let count, let file):
            "\(file): \(count) values of \(weight) are NaN or infinite; the source is damaged, or --allow-non-finite carries them on purpose"
        case .overflowsF16(let weight, let row):
            "weight \(weight) holds a value near row \(row) beyond F16's largest number 65504; convert it to bf16 instead"
        case .lost(let path): "\(path) was finished and is not there any more; somebody removed it, run the same command again"
        case .changed(let path):
            "\(path) was changed, replaced or freed while it was converted: what was made of it is not continued; run the same command again once it is whole"
        case .consumed(let file, let weight):
            "\(file): \(weight) was freed by a conversion with --consume-source, and what was made of it is not in this destination; restore the file, or convert what that conversion wrote"
        case .differs(let weight, let file, let bytes):
            "\(file): reading back \(weight) shows \(bytes) bytes that differ from what was written; the disk or memory is faulty, run the same command again to rewrite it"
        case .sourceDigest(let tensor, let file):
            "\(file): the bytes of \(tensor) do not match the digest in the source's recast.manifest.json; the file is damaged, restore it"
        case .interrupted(let done, let total):
            "stopped after \(done) of \(total) weights; run the same command again to continue"
        case .unfinishedParts(let parts, let count, let path):
            "\(path): \(parts.count == 1 ? "part" : "parts") \(parts.prefix(20).map(String.init).joined(separator: ", "))\(parts.count > 20 ? " and \(parts.count - 20) more" : "") of \(count) \(parts.count == 1 ? "has" : "have") not finished; run \(parts.count == 1 ? "it" : "them") again, and then `recast finish`"
        case .unsupported(let weight, let layout): "\(weight): \(layout) can be read but not written"
        }
    }
}
