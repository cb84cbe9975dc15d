// swift-tools-version: 6.2
import PackageDescription

// Adding a format adds one line here: its folder holds a FORMAT.md, which is documentation and not a source.
let formatFolders = [
    "Containers/GGUF",
    "Containers/HDF5",
    "Containers/Safetensors",
    "Containers/TorchArchive",
    "Containers/ZstdArchive",
    "Dialects/DeepSeekRanks",
    "Dialects/HuggingFace",
    "Dialects/LlamaCpp",
    "Dialects/MLX",
    "Dialects/Mistral",
    "Layouts/AWQ",
    "Layouts/BlockScaledFP8",
    "Layouts/CompressedTensors",
    "Layouts/Dense",
    "Layouts/FloatQuantized",
    "Layouts/GGMLBlocks",
    "Layouts/GPTQ",
    "Layouts/IntegerQuantized",
    "Layouts/MLX",
    "Layouts/MXFP4",
    "Layouts/MXFP8",
    "Layouts/NVFP4",
    "Layouts/PackedInteger",
    "Layouts/W4AFP8",
]

// Warnings are errors in CI only: a newer compiler's warnings must not break a user's build.
let isCI = Context.environment["CI"] != nil
let strict: [SwiftSetting] = [.enableUpcomingFeature("ExistentialAny")] + (isCI ? [.treatAllWarnings(as: .error)] : [])

// Of libhdf5 only headers are needed: the library is loaded by who meets an HDF5 file. Where they lie pkg-config says, but it would link, too.
#if os(Linux)
    let hdf5: String? = nil
#else
    let hdf5: String? = "hdf5"
#endif

let package = Package(
    name: "recast",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "Recast", targets: ["Recast"]),
        .executable(name: "recast", targets: ["RecastCLI"]),
        .executable(name: "recast-benchmarks", targets: ["RecastBenchmarks"]),
    ],
    // Without it (--disable-default-traits) nothing of TLS and HTTP is built in, and sources are of this machine.
    traits: [
        .trait(name: "Network", description: "Sources over the network: hf://, s3:// and https://."),
        .default(enabledTraits: ["Network"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.3.0"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
    ],
    targets: [
        .target(name: "CKernels"),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"]), .brew(["zstd"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CHDF5", pkgConfig: hdf5, providers: [.apt(["libhdf5-dev"]), .brew(["hdf5"])]),
        .target(name: "CHDF5Files", dependencies: ["CHDF5", "CZstd"], linkerSettings: [.linkedLibrary("dl", .when(platforms: [.linux]))]),
        .target(name: "StrictJSON", swiftSettings: strict),
        .target(name: "Runtime", dependencies: ["CKernels"], swiftSettings: strict),
        .target(
            name: "Tensors", dependencies: ["CKernels", "Runtime", .product(name: "SystemPackage", package: "swift-system")], swiftSettings: strict),
        .target(name: "Architectures", dependencies: ["Runtime", "StrictJSON"], swiftSettings: strict),
        .target(
            name: "Formats",
            dependencies: [
                "Architectures", "CHDF5Files", "CKernels", "CZlib", "CZstd", "Runtime", "StrictJSON", "Tensors", "Tokenizers",
                .product(name: "Crypto", package: "swift-crypto"),
            ],
            path: "Formats",
            exclude: formatFolders.map { $0 + "/FORMAT.md" }, swiftSettings: strict),
        .target(
            name: "Remote",
            dependencies: [
                "Runtime", "StrictJSON", "Tensors",
                .product(name: "AsyncHTTPClient", package: "async-http-client", condition: .when(traits: ["Network"])),
                .product(name: "Crypto", package: "swift-crypto"),
            ],
            swiftSettings: strict),
        .target(
            name: "Checkpoints", dependencies: ["Architectures", "Formats", "Remote", "Runtime", "StrictJSON", "Tensors"], swiftSettings: strict),
        .target(
            name: "Quantization", dependencies: ["Architectures", "CKernels", "Formats", "Runtime", "Tensors"], exclude: ["QUANTIZERS.md"],
            swiftSettings: strict),
        .target(
            name: "Conversion",
            dependencies: [
                "Architectures", "CKernels", "Checkpoints", "Formats", "Quantization", "Runtime", "StrictJSON", "Tensors",
                .product(name: "Crypto", package: "swift-crypto"),
                "Yams",
            ],
            swiftSettings: strict),
        .target(
            name: "Calibration",
            dependencies: ["Architectures", "Checkpoints", "Conversion", "Formats", "Quantization", "ReferenceModels", "Runtime", "Tensors"],
            swiftSettings: strict),
        .target(
            name: "Consumers", dependencies: ["Architectures", "Checkpoints", "Formats", "Runtime", "StrictJSON", "Tensors"], swiftSettings: strict),
        .target(
            name: "Parity",
            dependencies: [
                "Architectures", "CKernels", "Checkpoints", "Consumers", "Conversion", "Formats", "ReferenceModels", "Runtime", "StrictJSON",
                "Tensors", .product(name: "Crypto", package: "swift-crypto"), "Yams",
            ],
            swiftSettings: strict),
        .target(
            name: "Sweeps",
            dependencies: [
                "Architectures", "Calibration", "Checkpoints", "Conversion", "Formats", "Parity", "Quantization", "ReferenceModels", "Runtime",
                "StrictJSON", "Tensors",
            ],
            swiftSettings: strict),
        .target(
            name: "ReferenceModels", dependencies: ["Architectures", "CKernels", "Checkpoints", "Formats", "Runtime", "StrictJSON", "Tensors"],
            swiftSettings: strict),
        .target(
            name: "Tokenizers", dependencies: ["Runtime", "StrictJSON", "Tensors", .product(name: "HeapModule", package: "swift-collections")],
            swiftSettings: strict),
        .target(
            name: "Recast",
            dependencies: [
                "Architectures", "Calibration", "Checkpoints", "Consumers", "Conversion", "Formats", "Parity", "Quantization",
                "ReferenceModels", "Remote", "Runtime", "StrictJSON", "Sweeps", "Tensors",
                "Tokenizers",
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "RecastCLI", dependencies: ["Recast", .product(name: "ArgumentParser", package: "swift-argument-parser")],
            resources: [.embedInCode("Schemas")], swiftSettings: strict),
        .executableTarget(
            name: "RecastBenchmarks",
            dependencies: ["CKernels", "Recast", .product(name: "ArgumentParser", package: "swift-argument-parser")], swiftSettings: strict),
        .target(
            name: "TestSupport", dependencies: ["Recast", .product(name: "Crypto", package: "swift-crypto")], path: "Tests/TestSupport",
            swiftSettings: strict),
        .testTarget(name: "StrictJSONTests", dependencies: ["StrictJSON"], swiftSettings: strict),
        .testTarget(name: "TensorsTests", dependencies: ["CKernels", "Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "FormatsTests", dependencies: ["Recast", "TestSupport", .product(name: "Crypto", package: "swift-crypto")], swiftSettings: strict),
        .testTarget(name: "QuantizationTests", dependencies: ["CKernels", "Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "CalibrationTests", dependencies: ["Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "SweepsTests", dependencies: ["Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "RemoteTests", dependencies: ["Remote", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "CheckpointsTests", dependencies: ["Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "ConversionTests", dependencies: ["Parity", "Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "ReferenceModelsTests", dependencies: ["Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "TokenizersTests", dependencies: ["Recast", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "ParityTests", dependencies: ["Parity", "Recast", "TestSupport", "Yams"], swiftSettings: strict),
        .testTarget(name: "CommandLineTests", dependencies: ["Recast", "RecastCLI", "TestSupport"], swiftSettings: strict),
    ]
)

// The readers of untrusted bytes for libFuzzer, which brings the main function: Tests/Scripts/fuzz.py builds them, with coverage in all of Recast,
// which no other build wants.
if Context.environment["RECAST_FUZZING"] != nil {
    package.targets.append(
        .executableTarget(
            name: "RecastFuzz", dependencies: ["Recast"], path: "Tests/Fuzzing/Sources/RecastFuzz",
            swiftSettings: [.enableUpcomingFeature("ExistentialAny"), .unsafeFlags(["-parse-as-library"])]))
}
