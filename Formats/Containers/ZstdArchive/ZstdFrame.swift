import CZstd
import Runtime
import Tensors

/// One zstd frame, compressed and restored whole, by facebook/zstd's library.
enum ZstdFrame {
    static let magic: UInt32 = 0xFD2F_B528
    /// Skippable frames are 0x184D2A50 ... 0x184D2A5F (RFC 8878, section 3.1.2).
    static let skippableMagic: UInt32 = 0x184D_2A50

    static func isSkippable(_ magic: UInt32) -> Bool { magic & 0xFFFF_FFF0 == skippableMagic }

    /// How a frame is compressed.
    enum Effort {
        /// Zstd's level 1: matches and entropy coding.
        case general
        /// The exponents of trained weights: all entropy, no repetitions. The search for matches, which costs most of the time
        /// and breaks up the runs of literals, is left out; what remains is Huffman coding.
        case exponents
        /// Mantissas: next to random, stored as they are unless they repeat plainly.
        case mantissas

        fileprivate var parameters: [(ZSTD_cParameter, Int32)] {
            switch self {
            case .general: [(ZSTD_c_compressionLevel, 1)]
            case .exponents:
                [
                    (ZSTD_c_compressionLevel, 1), (ZSTD_c_minMatch, 7), (ZSTD_c_targetLength, 131_072), (ZSTD_c_hashLog, 6),
                    // literalCompressionMode = enabled (zstd.h, experimental section): it would be off with a targetLength.
                    (ZSTD_c_experimentalParam5, 1),
                ]
            case .mantissas: [(ZSTD_c_compressionLevel, -20)]
            }
        }
    }

    final class Compressor {
        private let context: OpaquePointer

        init() throws(OutOfMemory) {
            guard let context = ZSTD_createCCtx() else { throw OutOfMemory(byteCount: 1 << 20) }
            self.context = context
        }

        deinit { ZSTD_freeCCtx(context) }

        static func bound(_ count: Int) -> Int { ZSTD_compressBound(count) + 64 }

        /// Compresses `source` into `target`, which has ``bound(_:)`` bytes; returns the frame's size. The frame carries a checksum.
        /// - Parameter parts: equal parts whose bytes differ in kind: none shares a block, and so its code, with the next.
        func compress(
            _ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer, _ effort: Effort, parts: Int = 1
        ) -> Int {
            ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters)
            for (parameter, value) in effort.parameters { ZSTD_CCtx_setParameter(context, parameter, value) }
            ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
            ZSTD_CCtx_setPledgedSrcSize(context, UInt64(source.count))
            var input = ZSTD_inBuffer(src: source.baseAddress, size: 0, pos: 0)
            var output = ZSTD_outBuffer(dst: target.baseAddress, size: target.count, pos: 0)
            for part in 1...parts {
                input.size = source.count / parts * part + (part == parts ? source.count % parts : 0)
                let left = ZSTD_compressStream2(context, &output, &input, part == parts ? ZSTD_e_end : ZSTD_e_flush)
                precondition(left == 0, "a frame larger than its bound")
            }
            return output.pos
        }
    }

    /// Contexts that wait for the next frame: making one costs as much as restoring a small frame.
    private final class Decompressors: Sendable {
        private let idle = Lock<[Context]>([])

        private struct Context: @unchecked Sendable { var pointer: OpaquePointer }

        /// Lends a context to `body`; nil if there is no memory for one.
        func lend(_ body: (OpaquePointer) -> Bool) -> Bool {
            guard let context = idle.withLock({ $0.popLast() }) ?? ZSTD_createDCtx().map({ Context(pointer: $0) }) else { return false }
            // Whatever a damaged frame left behind ends with the next one's beginning.
            defer { idle.withLock { $0.append(context) } }
            return body(context.pointer)
        }
    }

    private static let decompressors = Decompressors()

    /// Restores a frame into exactly `target`; false if it is damaged or has another size.
    static func decompress(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
        decompressors.lend { ZSTD_decompressDCtx($0, target.baseAddress, target.count, source.baseAddress, source.count) == target.count }
    }
}
