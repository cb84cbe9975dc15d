/// How a plan is carried out; none of it changes a byte of the output.
public struct RunOptions: Sendable {
    /// Upper bound on working memory, in bytes.
    public var memory = 2 << 30
    /// Worker threads; nil for one a processor.
    public var jobs: Int?
    /// Replace an earlier conversion in the destination.
    public var overwrite = false
    /// Continue a run, or report that it is finished.
    public var resume = false
    /// Leave pages of zeros as holes of the files, where the file system can. How much space a run needs is then not known before it.
    public var isSparse = false
    /// Free the large tensors of each source file once all that is made of it is durable and audited. The source is no checkpoint afterwards.
    public var consumesSource = false
    /// Carry NaN and infinities of the source, and scales that are none, instead of refusing them.
    public var allowsNonFinite = false

    /// Options with defaults for what is left out; `memory` in bytes.
    public init(memory: Int = 2 << 30, jobs: Int? = nil, overwrite: Bool = false, resume: Bool = false) {
        self.memory = memory
        self.jobs = jobs
        self.overwrite = overwrite
        self.resume = resume
    }
}
