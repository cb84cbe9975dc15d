#!/usr/bin/env bash
# The test suite under the sanitizers, C and Swift alike: addresses and undefined behaviour for what reads files and numbers, threads for
# runs and forward passes. The first failure of any kind ends it. Each has a build folder of its own.
#
# usage: sanitizers.sh [address|thread]...
set -euo pipefail
cd "$(dirname "$0")/../.."

# A build for the sanitizers takes minutes; so does a trained model under them. What is left out here is run by the plain suite.
memory='TensorsTests|FormatsTests|CheckpointsTests|StrictJSONTests|TokenizersTests|ParityTests.PerturbationTests|ConversionTests.RunTests'
threads='ConversionTests.RunTests|ContainerConversionTests|ParityTests.ForwardTrialTests|ParityTests.PerturbationTests'

[ $# -gt 0 ] || set -- address thread
for kind in "$@"; do
    case $kind in
        address)
            # Tests ask for memory that no machine has. Swift has traps of its own for what is undefined in C; the kernels get the compiler's, which need no library.
            ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 swift test -c release --disable-default-traits --scratch-path .build-address --sanitize=address \
                -Xcc -fsanitize=undefined -Xcc -fno-sanitize=function -Xcc -fsanitize-trap=undefined --filter "$memory" ;;
        thread)
            TSAN_OPTIONS="halt_on_error=1:allocator_may_return_null=1:suppressions=$PWD/Tests/Scripts/thread.suppressions" swift test -c release --disable-default-traits --scratch-path .build-thread --sanitize=thread --filter "$threads" ;;
        *) echo "unknown sanitizer $kind" >&2; exit 64 ;;
    esac
done
