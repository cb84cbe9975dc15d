/// How a plan is carried out; none of it changes a byte of the output.
public struct RunOptions: Sendable {
    /// Upper bound on working memory, in bytes.
    public var memory = 2 << 30
    /// Worker threads; nil for one a processor.
    public var jobs: Int?
    public var overwrite = false
    public var resume = false
    /// Carry NaN and infinities of the source, and scales that are none, instead of refusing them.
    public var allowsNonFinite = false

    public init(memory: Int = 2 << 30, jobs: Int? = nil, overwrite: Bool = false, resume: Bool = false) {
        self.memory = memory
        self.jobs = jobs
        self.overwrite = overwrite
        self.resume = resume
    }
}
