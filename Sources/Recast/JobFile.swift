import Conversion
import StrictJSON

/// What starts the parts of a conversion, one after another or side by side, and joins them: the file that a scheduler takes.
public enum JobFile: String, Sendable, CaseIterable {
    /// A script that submits an array of parts and a job that depends on it.
    case slurm
    /// An Indexed Job of parts and a Job that joins them, for `kubectl apply`.
    case kubernetes
    /// A script that starts the parts by `mpirun`.
    case mpi
    /// A task of as many nodes as parts.
    case skypilot

    /// What a job file says besides the commands.
    public struct Settings: Sendable {
        /// How many parts.
        public var parts: Int
        /// Working memory of a part in bytes, as `--memory` has it.
        public var memory: Int
        /// Kubernetes: the image that holds `recast`, the volume claim of the checkpoints and where it is mounted.
        public var image: String?
        /// See ``image``.
        public var claim: String?
        /// See ``image``.
        public var mount: String

        /// Settings with what is left out as given here.
        public init(parts: Int, memory: Int = 2 << 30, image: String? = nil, claim: String? = nil, mount: String = "/checkpoints") {
            self.parts = parts
            self.memory = memory
            self.image = image
            self.claim = claim
            self.mount = mount
        }
    }

    /// The file's text.
    ///
    /// - Parameters:
    ///   - convert: the words of the conversion's command line, without `--part`.
    ///   - finish: those of the command that joins the parts.
    /// - Throws: ``ConversionFailure`` if a setting is missing.
    public func text(convert: [String], finish: [String], _ settings: Settings) throws -> String {
        _ = try Part(1, of: settings.parts)
        let part = convert + ["--part", "auto/\(settings.parts)"]
        switch self {
        case .slurm: return slurm(part, finish, settings)
        case .kubernetes: return try kubernetes(part, finish, settings)
        case .mpi: return mpi(part, finish, settings)
        case .skypilot: return skypilot(part, finish, settings)
        }
    }

    /// Beyond `--memory`: the program itself and the plan (`MemoryBudget.allowance` and what is around it).
    private func mebibytes(_ settings: Settings) -> Int { (settings.memory + (1 << 20) - 1) >> 20 + 512 }

    private func slurm(_ part: [String], _ finish: [String], _ settings: Settings) -> String {
        """
        #!/bin/bash
        # Run this where sbatch is: it submits \(settings.parts) parts and, after all of them, the job that joins them.
        set -eu
        parts=$(sbatch --parsable <<'PART'
        #!/bin/bash
        #SBATCH --job-name=recast
        #SBATCH --array=0-\(settings.parts - 1)
        #SBATCH --mem=\(mebibytes(settings))M
        #SBATCH --requeue
        #SBATCH --open-mode=append
        #SBATCH --output=recast-%A_%a.log
        #SBATCH --signal=B:TERM@120
        # A part that is stopped (status 75, as before the time limit) or killed goes on where it was when it is run again. Where slurm.conf
        # has RequeueExit=75 the end of this script is not reached. A task is named by array and number: by its job alone one of them is all.
        \(shell(part)) &
        child=$!
        trap 'kill -TERM "$child" 2>/dev/null' TERM
        status=0
        wait "$child" || status=$?
        while kill -0 "$child" 2>/dev/null; do status=0; wait "$child" || status=$?; done
        if [ "$status" -eq 75 ] || [ "$status" -gt 128 ]; then
            if [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && sleep 60; fi
        fi
        exit "$status"
        PART
        )
        sbatch --job-name=recast-finish --dependency=afterok:"$parts" --mem=\(mebibytes(settings))M --output=recast-%j-finish.log <<'FINISH'
        #!/bin/bash
        exec \(shell(finish))
        FINISH

        """
    }

    private func mpi(_ part: [String], _ finish: [String], _ settings: Settings) -> String {
        """
        #!/bin/bash
        # One killed or stopped rank stops the others (Open MPI); all go on where they were, at most 20 times.
        set -u
        for attempt in $(seq 20); do
            status=0
            mpirun -np \(settings.parts) \(shell(part)) || status=$?
            [ "$status" -eq 75 ] || [ "$status" -gt 128 ] || break
        done
        [ "$status" -eq 0 ] || exit "$status"
        exec \(shell(finish))

        """
    }

    private func skypilot(_ part: [String], _ finish: [String], _ settings: Settings) -> String {
        """
        name: recast
        num_nodes: \(settings.parts)
        resources:
          memory: \((mebibytes(settings) + 1023) / 1024)+
          job_recovery:
            recover_on_exit_codes: [75]
            max_restarts_on_errors: 3
        run: |
          set -e
          \(shell(part))
          if [ "$SKYPILOT_NODE_RANK" = 0 ]; then
            while true; do
              status=0
              \(shell(finish)) || status=$?
              [ "$status" -eq 75 ] || exit "$status"
              sleep 30
            done
          fi

        """
    }

    private func kubernetes(_ part: [String], _ finish: [String], _ settings: Settings) throws -> String {
        guard let image = settings.image, let claim = settings.claim else {
            throw ConversionFailure.usage(
                "--emit kubernetes needs --image, which holds recast, and --claim, the volume claim that holds the checkpoints")
        }
        func job(_ name: String, _ command: [String], _ extent: String, _ backoff: String) -> String {
            """
            apiVersion: batch/v1
            kind: Job
            metadata:
              name: \(name)
            spec:
            \(extent)  podReplacementPolicy: Failed
              podFailurePolicy:
                rules:
                # Preempted or evicted, and stopped: run again.
                - action: Ignore
                  onPodConditions:
                  - type: DisruptionTarget
                - action: Ignore
                  onExitCodes:
                    containerName: recast
                    operator: In
                    values: [75]
                # Usage, bad data, no input, a bug, the destination: again would be the same.
                - action: FailJob
                  onExitCodes:
                    containerName: recast
                    operator: In
                    values: [64, 65, 66, 70, 73]
            \(backoff)  template:
                spec:
                  restartPolicy: Never
                  terminationGracePeriodSeconds: 120
                  containers:
                  - name: recast
                    image: \(quoted(image))
                    command: [\(command.map(quoted).joined(separator: ", "))]
                    resources:
                      requests:
                        memory: \(mebibytes(settings))Mi
                    volumeMounts:
                    - name: checkpoints
                      mountPath: \(quoted(settings.mount))
                  volumes:
                  - name: checkpoints
                    persistentVolumeClaim:
                      claimName: \(quoted(claim))

            """
        }
        let parts = "  completionMode: Indexed\n  completions: \(settings.parts)\n  parallelism: \(settings.parts)\n"
        // The joining job asks again until the last part is there.
        return job("recast-parts", part, parts, "  backoffLimitPerIndex: 6\n") + "---\n" + job("recast-finish", finish, "", "  backoffLimit: 6\n")
    }

    /// A YAML scalar; JSON's strings are such.
    private func quoted(_ word: String) -> String { JSONValue.string(word).text(pretty: false) }

    /// Words of a command line for a POSIX shell.
    private func shell(_ words: [String]) -> String {
        let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%")
        return words.map { word in
            !word.isEmpty && word.allSatisfy(plain.contains)
                ? word : "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
        }.joined(separator: " ")
    }
}
