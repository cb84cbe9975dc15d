import Recast

extension FuzzReader {
    /// Whole files as they are, of every container.
    static let containers: [FuzzReader] = [
        file("safetensors", "model.safetensors"), file("torch", "model.pt"), file("hdf5", "model.h5"), file("zstd", "model.safetensors.zst"),
        file("gguf", "model.gguf"),
        FuzzReader("pickle") { input in
            let (isBigEndian, pickle) = input.choice(below: 2)
            let storage = (0..<64).map { UInt8($0) }
            let order = Array((isBigEndian == 1 ? "big" : "little").utf8)
            open(
                FuzzZip.bytes([("a/data.pkl", pickle), ("a/byteorder", order), ("a/data/0", storage), ("a/data/1", Array(storage.prefix(16)))]),
                "pickle.pt")
        },
        FuzzReader("index") { input in
            let folder = FuzzDirectory.path + "/index"
            _ = indexFolder
            FuzzDirectory.write(input.bytes, to: folder + "/" + SafetensorsIndex.fileName)
            refusable { _ = try Checkpoint(opening: folder) }
        },
    ]

    private static func file(_ name: String, _ fileName: String) -> FuzzReader { FuzzReader(name) { open($0.bytes, fileName) } }

    /// Opens a file as a container and as a checkpoint, and reads from its tensors.
    private static func open(_ bytes: [UInt8], _ fileName: String) {
        let folder = FuzzDirectory.path + "/file"
        _ = fileFolder
        let path = folder + "/" + fileName
        FuzzDirectory.write(bytes, to: path)
        refusable { try ContainerRegistry.open(path)?.readSome() }
        refusable {
            let checkpoint = try Checkpoint(opening: path)
            _ = Inventory(of: checkpoint)
            _ = try ScaleCheck.findings(in: checkpoint)
        }
    }

    private static let fileFolder = FuzzDirectory.empty("file")

    /// Two shards and a file that an index may forget.
    private static let indexFolder: String = {
        let folder = FuzzDirectory.empty("index")
        let files = [
            "model-1.safetensors": ["a.weight", "b.weight"], "model-2.safetensors": ["c.weight"], "model-3.safetensors": ["model.layers.1.d.weight"],
        ]
        for (file, names) in files {
            let tensors = names.map { "\"\($0)\":{\"dtype\":\"BF16\",\"shape\":[2,2]}" }
            FuzzDirectory.write(FuzzTensorFile.bytes(header: Array("{\(tensors.joined(separator: ","))}".utf8)), to: folder + "/" + file)
        }
        FuzzDirectory.write(Array(#"{"num_hidden_layers":1,"num_nextn_predict_layers":1}"#.utf8), to: folder + "/config.json")
        return folder
    }()
}

/// Zip files of stored entries, as torch.save writes them: with checksums that are right, a mutated pickle is read at all.
enum FuzzZip {
    static func bytes(_ entries: [(name: String, content: [UInt8])]) -> [UInt8] {
        var file: [UInt8] = [], directory: [UInt8] = []
        for entry in entries {
            let name = Array(entry.name.utf8)
            let common =
                number(20, 2) + number(0, 8) + number(Int(checksum(entry.content)), 4) + number(entry.content.count, 4)
                + number(entry.content.count, 4) + number(name.count, 2) + number(0, 2)
            directory += number(0x0201_4B50, 4) + number(20, 2) + common + number(0, 10) + number(file.count, 4) + name
            file += number(0x0403_4B50, 4) + common + name + entry.content
        }
        let counts = number(entries.count, 2) + number(entries.count, 2)
        return file + directory + number(0x0605_4B50, 4) + number(0, 4) + counts + number(directory.count, 4) + number(file.count, 4) + number(0, 2)
    }

    private static func number(_ value: Int, _ size: Int) -> [UInt8] { (0..<size).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

    private static let table: [UInt32] = (0..<256).map { byte in
        (0..<8).reduce(UInt32(byte)) { sum, _ in sum & 1 == 1 ? sum >> 1 ^ 0xEDB8_8320 : sum >> 1 }
    }

    private static func checksum(_ bytes: [UInt8]) -> UInt32 {
        ~bytes.reduce(~UInt32(0)) { $0 >> 8 ^ table[Int(($0 ^ UInt32($1)) & 0xFF)] }
    }
}
