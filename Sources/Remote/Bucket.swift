import Foundation
import Runtime
import Tensors

/// `s3://BUCKET/PREFIX`: what lies under a prefix of a store that speaks S3, read like a directory.
///
/// Every read asks for the version that was listed (`If-Match`), so that an object that was replaced gives an error instead of bytes of another.
package struct Bucket: RemoteDirectory {
    package let path: String
    let files: [String: RemoteFile]

    package static let scheme = "s3://"

    package static func find(
        _ text: String, _ environment: RemoteEnvironment, pool: @autoclosure () -> BlockPool = .shared
    ) throws -> (directory: any SourceDirectory, name: String?) {
        let rest = text.dropFirst(scheme.count)
        let bucket = String(rest.prefix { $0 != "/" })
        var key = String(rest.dropFirst(bucket.count + 1))
        while key.hasSuffix("/") { key.removeLast() }
        // Stores that are not AWS take more names than it does.
        let isName = (3...255).contains(bucket.utf8.count) && bucket.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9._-]*/) != nil
        guard isName else {
            throw RemoteFailure.address(
                text, reason: "a source in a store is s3://BUCKET/PREFIX, and a bucket's name has letters, digits, dots and dashes")
        }
        let store = try BucketStore(environment, bucket)
        let shared = pool()
        let folder = key.isEmpty ? "" : key + "/"
        let objects = try store.list(folder, path: text)
        if objects.isEmpty, !key.isEmpty, let object = try store.list(key, path: text).first(where: { $0.key == key }) {
            let directory = FileTree.directory(of: key)
            let name = String(key.split(separator: "/").last ?? "")
            let beside = try store.list(directory == "." ? "" : directory + "/", path: text)
            return (Bucket(store, directory == "." ? "" : directory + "/", beside.isEmpty ? [object] : beside, shared), name)
        }
        guard !objects.isEmpty else { throw RemoteFailure.missing(text, reason: "nothing lies under this prefix") }
        return (Bucket(store, folder, objects, shared), nil)
    }

    private init(_ store: BucketStore, _ folder: String, _ objects: [BucketStore.Object], _ pool: BlockPool) {
        let path = Self.scheme + store.bucket + (folder.isEmpty ? "" : "/" + folder.dropLast())
        var files: [String: RemoteFile] = [:]
        for object in objects {
            let name = String(object.key.dropFirst(folder.count))
            files[name] = RemoteFile(
                path + "/" + name, byteCount: object.size, identity: object.tag, isTagged: true, server: store.base(),
                location: BucketLocation(store: store, object: object), pool: pool)
        }
        self.path = path
        self.files = files
    }

    package func conclude() -> [String] { ["\(path): objects are known by their ETags and lengths; the store gives no checksum of parts of them"] }
}
