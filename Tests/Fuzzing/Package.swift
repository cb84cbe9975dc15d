// swift-tools-version: 6.2
import PackageDescription

// A package of its own: everything it depends on is built with coverage, which no other build of Recast wants. Tests/Scripts/fuzz.py builds it.
let package = Package(
    name: "recast-fuzz",
    platforms: [.macOS(.v15)],
    dependencies: [.package(name: "recast", path: "../..")],
    targets: [
        .executableTarget(
            name: "RecastFuzz", dependencies: [.product(name: "Recast", package: "recast")],
            // libFuzzer brings the main function.
            swiftSettings: [.enableUpcomingFeature("ExistentialAny"), .unsafeFlags(["-parse-as-library"])])
    ]
)
