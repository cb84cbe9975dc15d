import StrictJSON
import Tensors

/// What huggingface_hub keeps of a repository on this machine (hub-docs: local-cache): `models--ORG--NAME/{refs, snapshots}`. Only read: other
/// repositories share its files.
struct HubCache {
    private let directory: String

    init(_ environment: RemoteEnvironment, id: String) {
        directory = environment.hubCache + "/models--" + id.split(separator: "/").joined(separator: "--")
    }

    /// The commit that a revision was when it was last asked for.
    func commit(_ revision: String) -> String? {
        if isCommit(revision) { return revision }
        guard !revision.split(separator: "/").contains(".."), let bytes = try? FileTree.read(directory + "/refs/" + revision, limit: 1 << 10) else {
            return nil
        }
        let text = String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }
        return isCommit(text) ? text : nil
    }

    /// The directory of a commit's files; nil if there is none.
    func snapshot(_ commit: String) -> String? {
        let path = directory + "/snapshots/" + commit
        return (try? FileTree.entry(path)) == .directory ? path : nil
    }

    /// The files of a commit and their sizes, where the hub's client wrote them down.
    func tree(_ commit: String) -> [String: Int]? {
        guard let bytes = try? FileTree.read(directory + "/trees/" + commit + ".json", limit: 64 << 20), let value = try? JSONValue(parsing: bytes),
            value["format_version"]?.int == 1, let files = value["files"]?.object
        else { return nil }
        var sizes: [String: Int] = [:]
        for (path, file) in files.members {
            guard let size = file["lfs_size"]?.int ?? file["size"]?.int else { return nil }
            sizes[path] = size
        }
        return sizes
    }
}
